"""`salus job watch | show | events`: follow a job; `stopping` has the commands that stop or resume it."""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salus.common.console import emit_json, example, out, shown, table
from salus.common.errors import RoundError
from salus.common.estimates import from_plain, metric_text
from salus.common.signals import saying
from salus.server.commands.arguments import Folder, JobId

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WATCH_S = 0.3
INCOMPLETE = ("not-evaluated", "no-report")  # the job finished all the same
TOLD = ("left-out", "not-asked", "abandoned", "resumed", "waiting", "waiting-for-turn", *INCOMPLETE)


def watch(folder: Folder, job_id: JobId) -> None:
    """Follow a job with a progress bar until it ends; exit code 50 if it fails."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    names, told = names_of(client), set[str]()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    goes_on = saying("The job continues. Follow it again with `salus job watch`, or stop it with `salus job cancel`.")
    with goes_on, Progress(*columns, console=out) as progress:
        bar = progress.add_task(job_id, total=client.get(f"/jobs/{job_id}")["of"])
        after = 0
        while True:
            result = client.get(f"/jobs/{job_id}")  # before the events: what happened up to then is all shown
            for event in client.get(f"/jobs/{job_id}/events", after=after):
                after = event["number"]
                _advance(progress, bar, event, names, told)
            if result["status"] not in ("waiting", "running"):
                break
            time.sleep(WATCH_S)
    if result["status"] != "finished":
        raise RoundError(
            f"The job {ended(result['status'])}: {result['reason'] or 'no reason was recorded'}",
            remedy=f"For details, run: salus job show {folder} {job_id}",
        )
    for what in ("model", "report"):
        if result[what]:
            out.print(f"{shown(what.capitalize())}: {shown(result[what])}", soft_wrap=True)


def _advance(
    progress: "Progress", bar: "TaskID", event: Mapping[str, Any], names: Mapping[int, str], told: set[str]
) -> None:
    """Advance the bar and print new messages: one line for each site and reason, not for each round."""
    fields = event["fields"]
    if event["kind"] == "round":
        metrics = from_plain(fields["metrics"])
        text = ", ".join(f"{k} {metric_text(metrics[k])}" for k in ("auc", "accuracy", "loss") if k in metrics)
        progress.update(bar, completed=fields["round"], description=f"round {fields['round']}/{fields['of']}  {text}")
    elif event["kind"] == "evaluated":
        for name, metric in from_plain(fields["metrics"]).items():
            progress.console.print(
                f"Final {name} on the sites' validation patients: {metric_text(metric)}", markup=False
            )
    elif event["kind"] in TOLD:
        line = in_words(event, names)
        if (key := f"{event['kind']} {fields.get('site')} {fields.get('text')}") not in told:
            told.add(key)
            progress.console.print(shown(line), soft_wrap=True)


def show(
    folder: Folder, job_id: JobId, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show a job's status, rounds, metrics and files, and which sites were left out and why."""
    from salus.common.subgroups.printing import show_subgroups
    from salus.common.subgroups.results import results_from_plain
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    result = client.get(f"/jobs/{job_id}")
    happened = client.get(f"/jobs/{job_id}/events")
    problems = refusals(happened)
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
        rows += [(f"{name} before that round", metric_text(metric)) for name, metric in metrics.items()]
    final = [event["fields"]["metrics"] for event in happened if event["kind"] == "evaluated"]
    rows += [(f"final {name}", metric_text(metric)) for name, metric in from_plain(final[-1] if final else {}).items()]
    table(job_id, ["", ""], rows)
    grouped = [event["fields"].get("subgroups") for event in happened if event["kind"] == "evaluated"]
    if results := results_from_plain(grouped[-1] if grouped else ()):
        show_subgroups("Final model by subgroup", results)
    for what in ("model", "report"):  # below the table, so that a path stays in one piece
        if result[what]:
            out.print(f"{shown(what.capitalize())}: {shown(result[what])}", soft_wrap=True)
    for working in result.get("progress", []):
        who, percent = names.get(working["site"], str(working["site"])), int(working["percent"])
        out.print(f"Now: {shown(who)}: {shown(working['step'])}, {shown(percent)} %", highlight=False, soft_wrap=True)
    waiting = [event for event in happened if event["kind"] in ("waiting", "attempt", "job-ended")]
    if result["status"] == "running" and waiting and waiting[-1]["kind"] == "waiting":
        out.print(shown(in_words(waiting[-1], names)), style="yellow", soft_wrap=True)
    for absent in result["absent"]:
        who = f"site {absent['site']} ({absent['name']})"
        out.print(f"Not asked now: {shown(who)}: {shown(absent['reason'])}", soft_wrap=True)
    for problem in problems:
        out.print(shown(refusal_text(problem, names)), soft_wrap=True)
    for line in dict.fromkeys(in_words(event, names) for event in happened if event["kind"] in INCOMPLETE):
        out.print(f"[bold red]{shown(line)}[/]", soft_wrap=True)
    if result["status"] in ("failed", "cancelled", "paused"):
        first = "Resume" if result["status"] == "paused" else "After removing the cause, resume"
        out.print(f"{shown(first)} the job with: salus job resume {shown(folder)} {shown(job_id)}", soft_wrap=True)


def events(
    folder: Folder,
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher number.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all events of a job, oldest first."""
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
        [(event["number"], event["at"][:19].replace("T", " "), text) for event, text in once(found, names)],
    )


def once(found: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> Iterable[tuple[Mapping[str, Any], str]]:
    """Yield events with their sentences, but an answer of a site only once in each attempt: a sum takes several exchanges."""
    answered = set[str]()
    for event in found:
        text = in_words(event, names)
        if event["kind"] == "attempt":
            answered.clear()
        if event["kind"] != "answered" or text not in answered:
            yield event, text
        if event["kind"] == "answered":
            answered.add(text)


def names_of(client: Any) -> dict[int, str]:
    """Return the names of all sites by number."""
    return {site["site"]: f"site {site['site']} ({site['name']})" for site in client.get("/status")["sites"]}


def refusals(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return why sites were left out: one entry for each site and reason, with its rounds."""
    entries: dict[tuple[int, str], list[int]] = {}
    for event in found:
        if event["kind"] == "left-out":
            rounds = entries.setdefault((event["fields"]["site"], event["fields"]["text"]), [])
            if event["fields"]["round"] not in rounds:
                rounds.append(event["fields"]["round"])
    return [{"site": site, "text": text, "rounds": rounds} for (site, text), rounds in entries.items()]


def refusal_text(problem: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return one line about the refusals of one site."""
    rounds = problem["rounds"]
    where = f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
    return f"Left out of {where}: {names.get(problem['site'], problem['site'])}: {problem['text']}"


def in_words(event: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return an event as a sentence; for an unknown kind, its name and text."""
    fields: Mapping[str, Any] = event["fields"]
    site = names.get(fields.get("site", 0), f"site {fields.get('site', '')}")
    metrics = fields.get("metrics") or {}
    measured = ", ".join(f"{name} {metric_text(metric)}" for name, metric in from_plain(metrics).items())
    text = str(fields.get("text", ""))
    needed = f"({fields.get('needed')} sites are needed, {len(fields.get('online', ()))} are online.)"
    attempt = f"Round {fields.get('round')}, attempt {fields.get('attempt', 0) + 1}"
    words = {
        "started": "The job started.",
        "resumed": f"Resumed after round {fields.get('round')}.",
        "waiting": f"{text or 'Waiting for sites.'} {needed}",
        "attempt": f"{attempt}: asked {_count(fields.get('sites', ()))}.",
        "answered": f"Round {fields.get('round')}: {site} answered.",
        "left-out": f"Round {fields.get('round')}: {site} was left out: {text}",
        "waiting-for-turn": f"Waiting until sites have finished {_earlier(fields.get('jobs', ()))}: "
        f"{', '.join(names.get(s, str(s)) for s in fields.get('sites', ()))}.",
        "not-asked": f"{site} is not asked: {text}",
        "abandoned": f"{attempt} was abandoned: {text}",
        "round": f"Round {fields.get('round')} of {fields.get('of')} is done. {measured}".strip(),
        "evaluated": f"The final model was evaluated at the sites: {measured}",
        "not-evaluated": f"The final model could not be evaluated: {text}",
        "no-report": f"The report could not be written: {text}",
        "job-ended": f"The job {ended(str(fields.get('status')))}. {text}".strip(),
    }
    return words.get(str(event["kind"]), f"{event['kind']}: {text}")


def _earlier(jobs: Collection[str]) -> str:
    """Return what busy sites are waited for: steps of other jobs, or what they were asked before, such as a check."""
    return f"their step of {', '.join(jobs)}" if jobs else "what they were asked before"


def ended(status: str) -> str:
    """Return how a job ended, as the verb of a sentence."""
    return f"was {status}" if status in ("cancelled", "paused", "aborted") else status


def _count(sites: object) -> str:
    count = len(sites) if isinstance(sites, list | tuple) else 0
    return f"{count} site" if count == 1 else f"{count} sites"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `salus job`."""
    name = "paediatric-pneumonia-0001"
    app.command(epilog=example(f"salus job watch ./coordinator {name}"))(watch)
    app.command(epilog=example(f"salus job show ./coordinator {name}"))(show)
    app.command(epilog=example(f"salus job events ./coordinator {name}"))(events)
