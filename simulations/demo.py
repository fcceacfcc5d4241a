"""The demo: a coordinator and phantom hospitals with DICOM files, as separate processes over TLS on loopback."""

import re
import time
from collections import Counter
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.summaries import DatasetSummary
from salus.common.console import out, shown, table
from salus.common.errors import RoundError
from salus.common.estimates import from_plain, metric_text
from salus.common.events import read_events
from salus.common.job import Job, parse_job
from salus.privacy.records.card import privacy_card
from salus.server.report import SiteRow, write_report
from salus.simulations.demo_pictures import PATIENTS, write_pictures
from salus.simulations.phantoms import DEMO_HOSPITALS, write_hospital
from salus.simulations.trial import Trial, empty

JOB = Path(__file__).with_name("jobs") / "phantom-lesion.toml"
POLICY = "# The defaults: masked sums, differential privacy, and a budget for every patient.\n"
POLL_S = 0.2


def demo_job(rounds: int) -> tuple[Job, str]:
    """Return the demo's job and its text."""
    text = re.sub(r"^rounds = \d+", f"rounds = {rounds}", JOB.read_text(), flags=re.M)
    return parse_job(text), text


def run_demo(folder: Path, *, rounds: int, sites: int) -> Path:
    """Run the demo in `folder` and return the report.

    Raises:
        SalusError: a process did not start, or the job failed.
    """
    started = time.monotonic()
    empty(folder)
    hospitals = DEMO_HOSPITALS[:sites]
    out.print("[bold]Salus demo[/]: phantom hospitals, synthetic patients, real DICOM files, real TLS.")
    trial = Trial(folder, [hospital.name for hospital in hospitals], policy=POLICY)
    summaries = []
    with out.status("Writing phantoms and importing them at each hospital ..."):
        for number, (hospital, site) in enumerate(zip(hospitals, trial.sites, strict=True)):
            write_hospital(site / "dicom", hospital, seed=number)
            summaries.append(open_catalogue(site).add("phantoms", "dicom", site / "dicom", SourceOptions()))
    _show_hospitals([hospital.name for hospital in hospitals], summaries)
    with trial:
        with out.status("Starting one coordinator and the hospitals' daemons ..."):
            trial.start_all()
        job, text = demo_job(rounds)
        job_id = trial.submit(text)
        _follow(trial, job_id, rounds)
        result = trial.wait_for(job_id)
    if result["status"] != "finished":
        raise RoundError(
            f"The demo's job did not finish ({result['status']}): {result['reason']}",
            remedy="See the daemon.log files in the demo's folders.",
        )
    report = folder / "report.html"
    events = [e for e in read_events(trial.coordinator / "events.jsonl") if e.fields.get("job") == job_id]
    rows = [_site_row(h.name, site, s) for h, site, s in zip(hospitals, trial.sites, summaries, strict=True)]
    names = {number: hospital.name for number, hospital in enumerate(hospitals, start=1)}
    write_report(
        report,
        job,
        job_id,
        result["rounds"],
        events,
        privacy_card(job, None, names),
        rows,
        consortium="Trial consortium",
    )
    final = next((e.fields["metrics"] for e in reversed(events) if e.kind == "evaluated"), {})
    if isinstance(final, dict):
        out.print(
            "Final model on all hospitals' validation patients: "
            + ", ".join(f"{shown(k)} {shown(metric_text(v))}" for k, v in from_plain(final).items())
        )
    out.print(f"Model:  {shown(result['model'])}", soft_wrap=True)
    out.print(f"Report: {shown(report.resolve())}", soft_wrap=True)
    right = write_pictures(folder / "pictures.html", folder / "new-patients", job, Path(result["model"]))
    out.print(f"Look:   {shown((folder / 'pictures.html').resolve())}", soft_wrap=True)
    out.print(f"The model classifies {right} of {PATIENTS} new patients correctly.", markup=False)
    out.print(
        f"Done in {time.monotonic() - started:.0f} s. The coordinator saw only masked vectors and their noised sum. "
        f"Every patient has differential privacy: epsilon {job.privacy.epsilon:g} for the whole job, evaluation included."
    )
    return report


def _show_hospitals(names: list[str], summaries: list[DatasetSummary]) -> None:
    table(
        "Imported",
        ["hospital", "patients", "studies", "images", "quarantined"],
        [
            (name, s.patients, s.studies, s.images, ", ".join(f"{n} {reason}" for reason, n in s.quarantined.items()))
            for name, s in zip(names, summaries, strict=True)
        ],
    )


def _follow(trial: Trial, job_id: str, rounds: int) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        bar = progress.add_task("training", total=rounds)
        after = 0
        while trial.admin.get(f"/jobs/{job_id}")["status"] in ("waiting", "running"):
            for event in trial.admin.get(f"/jobs/{job_id}/events", after=after):
                after = event["number"]
                if event["kind"] == "round":
                    done = event["fields"]["round"]
                    progress.update(bar, completed=done, description=f"round {done}/{rounds}")
            time.sleep(POLL_S)
        progress.update(bar, completed=rounds)


def _site_row(name: str, site: Path, summary: DatasetSummary) -> SiteRow:
    """Return a summary of the site's own log; in a real federation only its operator can read it."""
    trained = [event for event in read_events(site / "events.jsonl") if event.kind == "trained"]
    last = trained[-1].fields if trained else {}
    reasons = Counter(summary.quarantined)
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    patients, images = last.get("patients", 0), last.get("images", 0)
    assert isinstance(patients, int)  # Safe because the site's own code wrote them as integers.
    assert isinstance(images, int)
    return SiteRow(name, patients, images, left_out, len(trained))
