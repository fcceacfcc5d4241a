"""`salus client`: create a site, join a consortium, run the daemon, show its status."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from salus.common.clock import SystemClock
from salus.common.console import emit_json, example, group, out, show_fingerprint, shown, tell
from salus.common.errors import DataError
from salus.common.events import Event
from salus.common.logs import LogFormat, json_log
from salus.common.signals import Stopped

app = group("The hospital: create a site, join a consortium, run the daemon.")
Folder = Annotated[Path, typer.Argument(help="The site's folder.")]


@app.command(epilog=example("salus client init ./site --name 'St. Mary'"))
def init(
    folder: Folder, name: Annotated[str, typer.Option(help="The hospital's name, as the consortium knows it.")]
) -> None:
    """Create a site's folder with its own keys, and a membership request for the consortium."""
    from salus.client.config import REQUEST, init_site
    from salus.common.identity import unhex

    request = init_site(folder, name)
    out.print(
        f"Created [bold]{shown(folder)}[/]. Send [bold]{shown(folder / REQUEST)}[/] to the consortium; it contains no secret."
    )
    show_fingerprint(unhex(request.public_key), "Key fingerprint, to compare by telephone")


@app.command(epilog=example("salus client join ./site ./site-1.kit"))
def join(folder: Folder, kit: Annotated[Path, typer.Argument(help="The kit that the consortium sent.")]) -> None:
    """Install the consortium's kit. The first one pins the consortium's key; later ones come through the coordinator."""
    from salus.common.identity import unhex
    from salus.common.kit import read_kit
    from salus.common.trust import install_kit, require_settings

    read = read_kit(kit)
    require_settings(folder, "site.toml", "salus client")
    roster = install_kit(folder, read, SystemClock())
    out.print(
        f"Joined [bold]{shown(roster.consortium)}[/], roster {roster.serial}, {len(roster.sites)} sites, "
        f"valid until {roster.valid_until:%Y-%m-%d}."
    )
    show_fingerprint(unhex(read.consortium_key), "Consortium's fingerprint, to compare by telephone")
    out.print("A running daemon uses it within a minute. Running jobs keep the roster that they began with.")


@app.command(epilog=example("salus client start ./site"))
def start(
    folder: Folder,
    quiet: Annotated[bool, typer.Option(help="Print nothing.")] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="What to print; json has no names and no texts. Default: site.toml.")
    ] = None,
) -> None:
    """Run the site's daemon until it is stopped; it makes outgoing connections only and reconnects by itself.

    SIGTERM or Ctrl-C stops it with exit code 0; the coordinator offers an unfinished round again at the next start.
    """
    from salus.client.config import SiteFolder
    from salus.client.daemon import SiteDaemon
    from salus.common.lock import FolderLock

    opened = SiteFolder.open(folder, SystemClock())
    lock = FolderLock(folder)
    as_json = (log_format or opened.config.log_format) == "json"
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    say, watch = (nothing, json_log("site")) if as_json else (_say, nothing)
    if quiet:
        say, watch = nothing, nothing
    daemon = SiteDaemon(opened, SystemClock(), say, watch=watch)

    try:
        daemon.run()
    except Stopped:  # ends a long poll or a round's training at once; the round is offered again at the next start
        if not quiet and not as_json:
            out.print("Stopped.")
    finally:
        lock.close()


def _say(line: str, alarm: bool) -> None:
    from datetime import datetime

    tell(f"{datetime.now():%H:%M:%S} {line}", alarm=alarm)


@app.command(epilog=example("salus client status ./site"))
def status(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show whether the daemon is running and connected, and its last activity; exit code 20 if a data set cannot be read."""
    from salus.client.config import SiteFolder, open_catalogue
    from salus.client.executors.stopped import StoppedJobs, job_at_work
    from salus.common.events import read_events
    from salus.common.lock import is_running

    clock = SystemClock()
    opened = SiteFolder.open(folder, clock)
    events = read_events(folder / "events.jsonl")
    last = {event.kind: event for event in events}
    links = [event for event in events if event.kind in ("connected", "disconnected", "outdated", "stopped")]
    running = is_running(folder)
    values = {
        "site": opened.site_id,
        "name": opened.roster.site(opened.site_id).name,
        "consortium": opened.roster.consortium,
        "coordinator": opened.roster.coordinator.url,
        "roster": opened.roster.serial,
        "roster_valid_until": opened.roster.valid_until.isoformat(),
        "warning": opened.roster.warning(clock.now()),
        "running": running,
        "working_for": job_at_work(folder) if running else "",
        "link": links[-1].kind if running and links else "stopped",
        "link_text": str(links[-1].fields.get("text", "")) if running and links else "",
        "last_trained": dict(last["trained"].fields) if "trained" in last else None,
        "last_refused": dict(last["refused"].fields) if "refused" in last else None,
        "roster_refused": _roster_refused(events),
    }
    catalogue = open_catalogue(folder)
    values["stopped_jobs"] = StoppedJobs(folder).all()
    values["withdrawn"] = catalogue.withdrawals.site_left()
    troubles = catalogue.troubles.all()
    if as_json:
        listed = [{"dataset": t.dataset, "since": t.since, "problem": t.problem} for t in troubles]
        emit_json({**values, "troubles": listed})
    else:
        for sentence in _sentences(values, last, shlex.quote(str(folder))):
            out.print(sentence, markup=False, highlight=False, soft_wrap=True)
        if values["warning"]:
            out.print(values["warning"], style="yellow", markup=False, highlight=False, soft_wrap=True)
        if values["roster_refused"]:
            text = f"REFUSED a roster that the coordinator sent: {values['roster_refused']}"
            out.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
        for trouble in troubles:
            out.print(trouble.line, style="bold red", markup=False, highlight=False, soft_wrap=True)
    if troubles:
        raise typer.Exit(DataError.exit_code)


def _roster_refused(events: Sequence[Event]) -> str | None:
    """Return why the coordinator's last roster was refused; None if another one has been installed since."""
    last = next((e for e in reversed(events) if e.kind in ("roster-installed", "roster-refused")), None)
    return str(last.fields.get("text")) if last is not None and last.kind == "roster-refused" else None


def _sentences(values: Mapping[str, object], last: Mapping[str, Event], folder: str) -> Iterator[str]:
    """Yield the lines of `status`; the folder is named as the operator did."""
    yield f"Site {values['site']}, {values['name']}, of {values['consortium']}."
    if values["withdrawn"]:
        yield "This site has withdrawn: it refuses every job."
    link = {
        "connected": f"The daemon is running and connected to {values['coordinator']}.",
        "disconnected": f"The daemon is running but not connected to {values['coordinator']}; it keeps trying. "
        f"{values['link_text']}".rstrip(),
    }
    if values["link"] == "outdated":
        link["outdated"] = (
            "The daemon is running, but this site's Salus is too old for the coordinator: it takes part in nothing and waits "
            "for its upgrade. Install the newest version and start the daemon again."
        )
    running = link.get(str(values["link"]), "The daemon is running but has not connected yet.")
    yield running if values["running"] else f"The daemon is not running. Start it: salus client start {folder}"
    if values["working_for"]:
        yield f"It works for job {values['working_for']} now. To stop that here: salus client stop-job {folder}"
    for job in _listed(values["stopped_jobs"]):
        yield f"Job {job} is stopped at this site."
    yield f"Roster {values['roster']} is valid until {str(values['roster_valid_until'])[:10]}."
    if "trained" in last:
        fields = last["trained"].fields
        yield (
            f"Last trained {_when(last['trained'])}: {fields.get('patients')} patients, {fields.get('images')} images, "
            f"round {fields.get('round')} of job {fields.get('job')}."
        )
    else:
        yield "No training has run here yet."
    if "refused" in last:
        fields = last["refused"].fields
        what = f"job {fields['job']}" if fields.get("job") else "a request"  # the check of a job has no id yet
        yield f"Last refused {_when(last['refused'])}, {what}: {fields.get('text')}"


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _when(event: Event) -> str:
    return f"{event.at.astimezone():%Y-%m-%d %H:%M}"
