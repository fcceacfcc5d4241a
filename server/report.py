"""The report of a job: one self-contained HTML file with inline plots, readable by a hospital's board."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from salus import __version__
from salus.common.columns import columns_of
from salus.common.estimates import metric_text
from salus.common.events import Event
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.subgroups.results import table_of
from salus.privacy.protection import protection_of
from salus.privacy.records.card import LeftOut, PrivacyCard
from salus.server.plots import confusion_rows, further_plots, roc_plot, round_plots
from salus.server.quality import evaluation_in, figures_in, subgroups_in
from salus.server.summary import plain_lines, why_no_confusion, why_no_roc

INCIDENTS = ("not-asked", "left-out", "abandoned", "resumed", "not-evaluated")


@dataclass(frozen=True)
class SiteRow:
    """One site's part, from its own log; only if all sites run on one machine, as in the demo."""

    name: str
    patients: int
    images: int
    left_out: str
    rounds: int


def phases(records: Sequence[Mapping[str, object]]) -> list[tuple[str, float]]:
    """Return the seconds spent in each phase over all rounds."""
    totals: dict[str, float] = {}
    for record in records:
        seconds = record.get("seconds")
        if isinstance(seconds, Mapping):
            for phase, value in seconds.items():
                totals[str(phase)] = totals.get(str(phase), 0.0) + float(value)
    return sorted(totals.items())


def facts(job: Job, job_id: str, events: Sequence[Event], consortium: str, sites: int) -> list[tuple[str, object]]:
    """Return the facts that identify the report: date, consortium, data."""
    times = [event.at for event in events]
    when = (
        f"{min(times):%d %B %Y, %H:%M} to {max(times):%d %B %Y, %H:%M} ({min(times):%Z})" if times else "not recorded"
    )
    shape = " x ".join(map(str, job.task.shape)) or f"{len(columns_of(job.task))} columns"
    rows: list[tuple[str, object]] = [
        ("job", job_id),
        ("run", when),
        ("consortium", consortium or "not recorded"),
        ("hospitals", sites),
        ("data set", f"{job.task.dataset}, {shape}, classes {', '.join(job.task.classes)}"),
        ("model", f"{job.task.model} for {job.task.kind}"),
        ("rounds", f"{job.job.rounds}, combined by {job.strategy}"),
        ("hash of the job", job.digest().hex()),
        ("software", f"Salus {__version__}"),
    ]
    return rows


def settings(job: Job) -> list[tuple[str, list[tuple[str, object]]]]:
    """Return every setting of the job by section, defaults included."""
    sections = job.model_dump(mode="json", exclude_none=True, exclude={"format"})
    return [(name, sorted(values.items())) for name, values in sections.items()]


def _farthest_mm(metrics: Mapping[str, object]) -> str:
    """Return the distance in millimetres that stands for a structure that was missed; empty where no distance is reported."""
    if not any(name.startswith("hausdorff95_mm_") for name in metrics):
        return ""
    from salus.common.metrics.surface import HAUSDORFF_EDGES_MM

    return f"{HAUSDORFF_EDGES_MM[-1]:g}"


def write_report(
    path: Path,
    job: Job,
    job_id: str,
    records: Sequence[Mapping[str, object]],
    events: Sequence[Event],
    card: PrivacyCard,
    sites: Sequence[SiteRow] = (),
    *,
    consortium: str = "",
    left_out: Sequence[LeftOut] = (),
) -> None:
    """Write the report of a finished job to `path`.

    Args:
        records, events: records of rounds and events of this job.
        sites: results from the sites' own logs, if all sites run on one machine.
        consortium: name of the consortium.
        left_out: sites that were not in every round.
    """
    metrics, figures = evaluation_in(events), figures_in(events)
    final = next((event.fields.get("metrics") for event in reversed(events) if event.kind == "evaluated"), {})
    roc, confusion = roc_plot(figures), confusion_rows(figures)
    environment = Environment(
        loader=PackageLoader("salus.server", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        job=job,
        job_id=job_id,
        lead=plain_lines(job, card, metrics, records),
        facts=facts(job, job_id, events, consortium, len(card.sites)),
        settings=settings(job),
        records=records,
        cohort=records[-1].get("cohort", {}) if records else {},
        metrics={name: metric_text(metric) for name, metric in metrics.items()},
        subgroups=table_of(grouped) if (grouped := subgroups_in(events)) else None,
        farthest_mm=_farthest_mm(metrics),
        least=job.evaluation.min_patients,
        noised=job.privacy.noised,
        roc=roc,
        further=further_plots(figures),
        figures=figures,
        confusion=confusion,
        why_no_roc="" if roc else why_no_roc(job, bool(metrics)),
        why_no_confusion="" if confusion else why_no_confusion(job, bool(metrics)),
        plots=round_plots(records, final),
        phases=phases(records),
        left_out=left_out,
        incidents=_incidents(events),
        sites=sites,
        card=card,
        promise=protection_of(job).promise(len(card.sites)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _incidents(events: Sequence[Event]) -> list[tuple[Event, int]]:
    """Return what went wrong, each problem of a round once with how often it came."""
    first: dict[tuple[object, ...], Event] = {}
    times: Counter[tuple[object, ...]] = Counter()
    for event in events:
        if event.kind in INCIDENTS:
            key = (event.kind, *(event.fields.get(name) for name in ("round", "site", "text")))
            first.setdefault(key, event)
            times[key] += 1
    return [(event, times[key]) for key, event in first.items()]
