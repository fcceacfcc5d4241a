"""`salus job show | events | resume`: what became of a job, in sentences, and how to go on with one that stopped."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from salus.common.console import emit_json, example, out, shown, table
from salus.common.errors import JobError
from salus.common.estimates import from_plain, metric_text
from salus.server.commands.arguments import Folder, JobId

ENDED_BADLY = ("failed", "cancelled")


def show(
    folder: Folder, job_id: JobId, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show where a job stands: rounds, metrics, every site that was left out and why, and its files."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    result = client.get(f"/jobs/{job_id}")
    problems = refusals(client.get(f"/jobs/{job_id}/events"))
    if as_json:
        emit_json({**result, "left_out": problems})
        return
    names = names_of(client)
    done = len(result["rounds"])
    rows: list[tuple[str, object]] = [
        ("status", result["status"] + (f": {result['reason']}" if result["reason"] else "")),
        ("rounds", f"{done} of {result['of']}"),
    ]
    if done:
        rows.append(("sites in the last round", ", ".join(names.get(s, str(s)) for s in result["rounds"][-1]["sites"])))
        metrics = from_plain(result["rounds"][-1].get("metrics_before") or {})
        rows += [(f"{name} before it", metric_text(metric)) for name, metric in metrics.items()]
    rows += [(what, result[what]) for what in ("model", "report") if result[what]]
    table(job_id, ["", ""], rows)
    for absent in result["absent"]:
        out.print(f"Not asked now: site {absent['site']}, {shown(absent['name'])}: {shown(absent['reason'])}")
    for problem in problems:
        out.print(shown(refusal_text(problem, names)), soft_wrap=True)
    if result["status"] in ENDED_BADLY:
        out.print(f"When the cause is removed: salus job resume {shown(folder)} {shown(job_id)}", soft_wrap=True)


def events(
    folder: Folder,
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher number.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List everything that happened in a job, oldest first."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    found = client.get(f"/jobs/{job_id}/events", after=after)
    if as_json:
        emit_json(found)
        return
    names = names_of(client)
    table(
        f"Events of {job_id}",
        ["number", "time (UTC)", "event"],
        [(event["number"], event["at"][:19].replace("T", " "), in_words(event, names)) for event in found],
    )


def resume(folder: Folder, job_id: JobId) -> None:
    """Resume a failed or cancelled job after its last finished round; nothing that was finished is repeated."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    done = client.post(f"/jobs/{job_id}/resume")["rounds"]
    out.print(f"[bold]{shown(job_id)}[/] is queued again and continues after round {done}.")


def names_of(client: Any) -> dict[int, str]:
    """Return the names of all sites by number."""
    return {site["site"]: f"site {site['site']}, {site['name']}" for site in client.get("/status")["sites"]}


def refusals(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what kept sites out of rounds: one entry for each site and reason, with the rounds it happened in."""
    entries: dict[tuple[int, str], list[int]] = {}
    for event in found:
        if event["kind"] == "left-out":
            rounds = entries.setdefault((event["fields"]["site"], event["fields"]["text"]), [])
            if event["fields"]["round"] not in rounds:
                rounds.append(event["fields"]["round"])
    return [{"site": site, "text": text, "rounds": rounds} for (site, text), rounds in entries.items()]


def refusal_text(problem: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return one line about one site's refusals."""
    rounds = problem["rounds"]
    where = f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
    return f"Left out of {where}: {names.get(problem['site'], problem['site'])}: {problem['text']}"


def in_words(event: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return an event as a sentence; one of an unknown kind is named as it is, with its text."""
    fields: Mapping[str, Any] = event["fields"]
    site = names.get(fields.get("site", 0), f"site {fields.get('site', '')}")
    metrics = fields.get("metrics") or {}
    measured = ", ".join(f"{name} {metric_text(metric)}" for name, metric in from_plain(metrics).items())
    text = str(fields.get("text", ""))
    words = {
        "started": "The job started.",
        "resumed": f"Resumed after round {fields.get('round')}.",
        "waiting": f"Waiting for sites: {fields.get('needed')} are needed, {len(fields.get('online', ()))} are online.",
        "attempt": f"Round {fields.get('round')}, attempt {fields.get('attempt', 0) + 1}: asked {_count(fields.get('sites', ()))}.",
        "answered": f"Round {fields.get('round')}: {site} answered.",
        "left-out": f"Round {fields.get('round')}: {site} was left out: {text}",
        "not-asked": f"{site} is not asked: {text}",
        "abandoned": f"Round {fields.get('round')}, attempt {fields.get('attempt', 0) + 1} was abandoned: {text}",
        "round": f"Round {fields.get('round')} of {fields.get('of')} is done. {measured}".strip(),
        "evaluated": f"The final model was measured at the sites: {measured}",
        "not-evaluated": f"The final model could not be measured: {text}",
        "no-report": f"The report could not be written: {text}",
        "job-ended": f"The job {fields.get('status')}. {text}".strip(),
    }
    return words.get(str(event["kind"]), f"{event['kind']}: {text}")


def _count(sites: object) -> str:
    count = len(sites) if isinstance(sites, list | tuple) else 0
    return f"{count} site" if count == 1 else f"{count} sites"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `salus job`."""
    name = "paediatric-pneumonia-0001"
    app.command(epilog=example(f"salus job show ./coordinator {name}"))(show)
    app.command(epilog=example(f"salus job events ./coordinator {name}"))(events)
    app.command(epilog=example(f"salus job resume ./coordinator {name}"))(resume)


def check_resumable(job_id: str, status: str) -> None:
    """Raise JobError unless a job stopped before its end."""
    if status not in ENDED_BADLY:
        raise JobError(
            f"Expected a failed or cancelled job, but {job_id!r} is {status}.",
            remedy="A waiting or running job continues by itself; a finished one has nothing left to do.",
        )
