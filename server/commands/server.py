"""`salus server`: create the coordinator's folder, install its kit, run the daemon, show its status."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from salus.common.clock import SystemClock
from salus.common.console import emit_json, example, group, out, show_fingerprint, shown, table, tell
from salus.common.logs import LogFormat, json_log
from salus.common.signals import unwinding
from salus.server.commands import backups

app = group("Set up and run the coordinator.")
ANSWERS_S = 10.0  # a running daemon takes a roster at once, and looks for a new one several times a second
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
backups.register(app)


@app.command(epilog=example("salus server init ./coordinator --name 'University' --url https://localhost:8443"))
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The coordinator's name.")],
    url: Annotated[str, typer.Option(help="The URL that sites connect to.")],
    listen: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 listens on every network.")
    ] = "127.0.0.1",
) -> None:
    """Create the coordinator's folder with its keys and a request to join the consortium."""
    from salus.common.identity import unhex
    from salus.server.config import REQUEST, init_server

    request = init_server(folder, name, url, listen)
    out.print(f"Created [bold]{shown(folder)}[/]. Send [bold]{shown(folder / REQUEST)}[/] to the consortium.")
    show_fingerprint(unhex(request.public_key), "Key fingerprint, to compare by telephone")


@app.command(epilog=example("salus server join ./coordinator ./kits/coordinator.kit"))
def join(folder: Folder, kit: Annotated[Path, typer.Argument(help="The kit file that the consortium issued.")]) -> None:
    """Install the kit from the consortium; a running daemon uses it at once and passes it on to the sites."""
    from salus.common.errors import LinkError
    from salus.common.identity import unhex
    from salus.common.kit import read_kit
    from salus.common.lock import is_running
    from salus.common.trust import install_kit, require_settings
    from salus.server.admin_client import AdminClient

    read = read_kit(kit)
    require_settings(folder, "server.toml", "salus server")
    roster = install_kit(folder, read, SystemClock())
    out.print(
        f"Joined [bold]{shown(roster.consortium)}[/] as coordinator, roster {roster.serial}, {len(roster.sites)} sites, "
        f"valid until {roster.valid_until:%Y-%m-%d}."
    )
    show_fingerprint(unhex(read.consortium_key), "Fingerprint of the consortium, to compare by telephone")
    if is_running(folder):
        try:
            taken = AdminClient(folder, ANSWERS_S).post("/roster")
        except LinkError:
            out.print("The daemon does not answer now; it uses this roster as soon as it can.")
            return
        out.print(
            f"The running daemon uses roster {shown(taken['serial'])} now: {shown(taken['changed'])}. "
            "The sites fetch it by themselves. Running jobs keep the roster with which they began.",
            soft_wrap=True,
        )
    else:
        out.print("The daemon is not running; it uses this roster from its next start.")


@app.command(epilog=example("salus server start ./coordinator"))
def start(
    folder: Folder,
    quiet: Annotated[bool, typer.Option(help="Print nothing.")] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="What to print; json has no names and no texts. Default: server.toml.")
    ] = None,
) -> None:
    """Run the coordinator's daemon until it is stopped; the next start resumes an interrupted job.

    SIGTERM or Ctrl-C stops it with exit code 0; a second one stops it without waiting for the current step.
    """
    from salus.common.events import Event
    from salus.common.lock import FolderLock
    from salus.server.config import ServerFolder
    from salus.server.daemon import CoordinatorDaemon

    def say(event: Event) -> None:
        if not quiet:
            fields = " ".join(
                f"{key}={_short(value)}"
                for key, value in event.fields.items()
                if key not in ("metrics", "figures", "subgroups") and value != ""
            )
            tell(f"{event.at.astimezone():%H:%M:%S} {event.kind} {fields}")

    opened = ServerFolder.open(folder, SystemClock())
    lock = FolderLock(folder)
    as_json = (log_format or opened.config.log_format) == "json"
    daemon = CoordinatorDaemon(opened, SystemClock(), json_log("coordinator") if as_json and not quiet else say)
    try:
        with unwinding(daemon.stop):
            daemon.run()
    finally:
        lock.close()
    if not quiet and not as_json:
        out.print("Stopped.")


def _short(value: object) -> object:
    """Return a field of an event for a line on the console, with times to the hundredth of a second."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_short(inner)}" for key, inner in value.items())
    return f"{value:.2f}" if isinstance(value, float) else value


@app.command(epilog=example("salus server status ./coordinator"))
def status(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show which sites are online, which jobs are running and how many wait."""
    from salus.server.admin_client import AdminClient

    values = AdminClient(folder).get("/status")
    if as_json:
        emit_json(values)
        return
    waiting = "unknown" if values["queue"] is None else values["queue"]
    out.print(
        f"[bold]{shown(values['consortium'])}[/], roster {shown(values['roster'])} valid until "
        f"{shown(values['roster_valid_until'][:10])}, running: "
        f"{shown(', '.join(values['jobs']) or 'none')}, waiting: {shown(waiting)}"
    )
    if values["storage"]:
        out.print(
            f"Jobs wait, because nothing can be stored: {values['storage']}",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
    table(
        "",
        ["site", "name", "online", "has roster"],
        [(site["site"], site["name"], "yes" if site["online"] else "no", _roster(site)) for site in values["sites"]],
    )


def _roster(site: Mapping[str, Any]) -> str:
    """Return which roster a site has, for the table."""
    if site["roster_problem"]:
        return str(site["roster_problem"])
    return "not said yet" if site["roster"] is None else str(site["roster"])
