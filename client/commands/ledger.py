"""`salus ledger`: what this hospital's patients have spent, and whether the ledger is intact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.common.console import emit_json, example, group, out, shown, table

if TYPE_CHECKING:
    from salus.client.ledger.store import Ledger

app = group("The privacy ledger: what patients have spent, and on which jobs.")
Folder = Annotated[Path, typer.Argument(help="The site's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=example("salus ledger show ./site --plot spending.svg"))
def show(
    folder: Folder,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of the spending over time, as SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show each job's cost and what patients have spent in this period."""
    from salus.client.ledger.report import job_lines, patient_lines, spending_plot

    ledger, budget = _open(folder)
    jobs, patients = job_lines(ledger), patient_lines(ledger, budget)
    if plot is not None:
        plot.write_text(spending_plot(ledger, budget), encoding="utf-8")
    if as_json:
        emit_json({"jobs": jobs, "patients": patients, "budget": budget.model_dump(mode="json")})
        return
    table(
        "Jobs",
        ["job", "data set", "accepted", "patients", "state", "spent", "at most"],
        [tuple(j.values()) for j in jobs],
    )
    table(
        f"Patients: at most {budget.epsilon:g} in {budget.period_days} days, at delta {budget.delta:g}",
        ["patients", "jobs", "epsilon", "left"],
        [tuple(line.values()) for line in patients],
    )


@app.command(epilog=example("salus ledger verify ./site --transcript job-0001.jsonl"))
def verify(
    folder: Folder,
    transcript: Annotated[
        Path | None,
        typer.Option(help="A job's transcript; the ledger must hold every head that this site signed in it."),
    ] = None,
) -> None:
    """Check the hash chain, and that the ledger holds every head that this site has signed; exit code 42 if not."""
    ledger, _ = _open(folder)
    head = ledger.verify()
    _compare_with_remembered(folder, ledger)
    out.print(f"{head.length} entries, head {shown(head.digest().hex()[:16])}: unchanged.")
    if transcript is not None:
        from salus.client.config import SiteFolder
        from salus.client.ledger.report import check_signed_heads
        from salus.common.clock import SystemClock

        count = check_signed_heads(ledger, transcript, SiteFolder.open(folder, SystemClock()).site_id)
        out.print(f"{shown(count)} heads signed by this site in the transcript, all of them in this ledger.")


@app.command(epilog=example("salus ledger export ./site ledger.json"))
def export(folder: Folder, target: Annotated[Path, typer.Argument(help="The file to write.")]) -> None:
    """Write all entries with their hashes, without patients' pseudonyms, for an auditor."""
    ledger, _ = _open(folder)
    entries = [{**entry.model_dump(mode="json"), "hash": digest.hex()} for entry, digest in ledger.entries()]
    emit_json(entries, str(target))
    out.print(f"{len(entries)} entries written.")


@app.command(epilog=example("salus ledger close ./site job-0001/0123456789abcdef"))
def close(
    folder: Folder, job: Annotated[str, typer.Argument(help="The job's name as shown by `salus ledger show`.")]
) -> None:
    """Close a job that will not continue, and give back what was reserved but never sent."""
    ledger, _ = _open(folder)
    refunded = ledger.close(job)
    out.print(f"{sum(release.count for release in refunded)} releases given back; nothing more is sent for this job.")


def _compare_with_remembered(folder: Path, ledger: "Ledger") -> None:
    """Raise ProtectionError if the ledger is not a later state of the one that the site's sessions remember."""
    from salus.client.session_store import SqliteSessionStore
    from salus.common.identity import Identity, unhex
    from salus.common.kit import SIGNING_KEY, read_kit
    from salus.common.roster import read_roster
    from salus.common.trust import KIT, TRUST

    sessions = folder / "sessions.sqlite"
    if sessions.exists():  # otherwise the site has not taken part in any job yet
        kit = read_kit(folder / TRUST / KIT)
        roster = read_roster(kit.roster, unhex(kit.consortium_key))  # an old ledger is checked with an old roster, too
        site = roster.id_of(Identity.load(folder / "keys" / SIGNING_KEY).public_key)
        ledger.check_holds(site, SqliteSessionStore(sessions).ledger_head(site))


def _open(folder: Path):  # type: ignore[no-untyped-def]  # imported late, so that the command line starts fast
    from salus.client.config import open_ledger
    from salus.client.policy import load_policy
    from salus.common.clock import SystemClock

    return open_ledger(folder, SystemClock()), load_policy(folder / "policy.toml").budget
