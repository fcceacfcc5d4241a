"""`salus serve`: a DICOM node that predicts; the work is in `serving`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salus.client.commands.intake import HERE, Authority, Certificate, Key, Listen, Trusted
from salus.common.console import emit_json, example, group, out, shown, table, tell
from salus.common.help import PACS

if TYPE_CHECKING:
    from salus.client.commands.importing import Tls
    from salus.client.data.incoming.receiver import DimseOptions
    from salus.client.serving.studies import Study
    from salus.common.events import Event

FORMAT = "salus/serve/1"
BOUNDS = "Bounds"
WARNING = "For research use only: no medical device, and nothing here has been checked by a person."
app = group("A DICOM node for research: receives studies, predicts, and sends the results to the PACS.")
Folder = Annotated[Path, typer.Argument(help="The node's folder, with its queue.")]
Number = Annotated[int, typer.Argument(min=1, help="The study's number, as salus serve status shows it.")]


Package = Annotated[Path, typer.Argument(help="The model's package; its signatures are checked first.")]
Pacs = Annotated[
    str,
    typer.Option(
        help="Where results go: dicom://TITLE@host:port for C-STORE, or https://host/dicom-web.", rich_help_panel=PACS
    ),
]
Senders = Annotated[
    list[str] | None,
    typer.Option(help="AE title that may send; may be repeated. If not given, that of the PACS.", rich_help_panel=PACS),
]
User = Annotated[
    str, typer.Option(help="DICOMweb user; the password is read from SALUS_PACS_PASSWORD.", rich_help_panel=PACS)
]
QuietS = Annotated[
    float, typer.Option(min=0, max=3600, help="Seconds without a new object after which a study is whole.")
]
Site = Annotated[Path | None, typer.Option(help="A site's folder, whose consortium must have signed.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
MostOblique = Annotated[
    float, typer.Option(min=0, max=55, help="Degrees by which a volume may be turned against the patient's axes.")
]
Keep = Annotated[
    str, typer.Option(help="Keep received files after sending; the text is the reason, which is recorded.")
]
MostStudies = Annotated[int, typer.Option(min=1, max=100_000, help="Studies that may wait.", rich_help_panel=BOUNDS)]
MostInstances = Annotated[
    int, typer.Option(min=1, max=10_000_000, help="Objects that may wait.", rich_help_panel=BOUNDS)
]
InstanceMb = Annotated[int, typer.Option(min=1, max=536, help="Megabytes of one object.", rich_help_panel=BOUNDS)]
FloorGb = Annotated[
    float, typer.Option(min=0, max=1e6, help="Gigabytes that stay free on the disk.", rich_help_panel=BOUNDS)
]
Connections = Annotated[int, typer.Option(min=1, max=64, help="Associations at a time.", rich_help_panel=BOUNDS)]
MostFailed = Annotated[
    int, typer.Option(min=0, max=100_000, help="Failed studies whose files are kept.", rich_help_panel=BOUNDS)
]
Once = Annotated[
    bool, typer.Option("--once", help="Receive nothing; work on what waits, try each study once, and end.")
]


@app.command(epilog=example("salus serve start ./node ./package.zip --pacs dicom://PACS@127.0.0.1:4242"))
def start(
    folder: Folder,
    package: Package,
    *,
    pacs: Pacs,
    sender: Senders = None,
    listen: Listen = HERE,
    user: User = "",
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
    quiet_s: QuietS = 10.0,
    site: Site = None,
    device: Device = "auto",
    most_oblique: MostOblique = 30.0,
    keep: Keep = "",
    studies: MostStudies = 200,
    instances: MostInstances = 200_000,
    instance_mb: InstanceMb = 536,
    floor_gb: FloorGb = 5.0,
    connections: Connections = 8,
    failed: MostFailed = 100,
    once: Once = False,
    quiet: Annotated[bool, typer.Option(help="Print nothing.")] = False,
) -> None:
    """Run the node until it is stopped. For research use only.

    An object is on disk before its sender hears of success. A study on which nothing arrives any more is predicted on, and its
    segmentation, report and picture are sent to the PACS. SIGTERM or Ctrl-C stops the node with exit code 0. It goes on where it
    was, also after a power failure.
    """
    from salus.client.commands.importing import Tls, sender_of
    from salus.client.performance import Performance
    from salus.client.predicting.given import given_model
    from salus.client.serving.daemon import ServeDaemon, Serving
    from salus.client.serving.spool import Bounds
    from salus.client.serving.working import Predicting, kinds_for
    from salus.common.errors import ConfigError
    from salus.common.signals import unwinding
    from salus.common.strict import validate

    tls = Tls(authority, certificate, key, trusted_network)
    values = {"studies": studies, "instances": instances, "floor_gb": floor_gb, "quiet_s": quiet_s, "failed": failed}
    bounds = validate(Bounds, values, error=ConfigError, what="bounds")
    listening = None if once else _listening(pacs, sender or [], listen, tls, connections, instance_mb)
    send = sender_of(pacs, user, listen.partition("@")[0], tls)
    chosen = validate(Performance, {"device": device}, error=ConfigError, what="choice of a device").torch_device()
    with given_model(package, None, site) as given:
        kinds = kinds_for(given.job)
        predicting = Predicting(given.job, given.load(), kinds, chosen, most_oblique=most_oblique)
    serving = Serving(folder, predicting, send, listening, bounds, " ".join(keep.split())[:200])
    daemon = ServeDaemon(serving, listener=(lambda event: None) if quiet else _say)
    if not quiet:
        out.print(WARNING, style="yellow")
    with unwinding(daemon.stop):
        daemon.run(once=once)
    if not daemon.finished:  # a prediction that takes long; it is made again at the next start
        sys.stdout.flush()
        os._exit(0)


def _listening(
    pacs: str, senders: list[str], listen: str, tls: "Tls", connections: int, instance_mb: int
) -> "DimseOptions":
    """Return how the node listens; only the PACS may send unless others are named."""
    from salus.client.commands.importing import Tls, dimse_options, place_of
    from salus.common.errors import ConfigError

    if not senders:
        if not pacs.startswith("dicom://"):
            raise ConfigError("Nobody may send to this node.", remedy="Give --sender with the AE title of the PACS.")
        senders = [place_of(pacs.removeprefix("dicom://"), "--pacs")[0]]
    if not tls.certificate:  # of a PACS over https
        tls = Tls(trusted_network=tls.trusted_network)
    options = {
        "called": senders[0],
        "senders": tuple(senders),
        "connections": connections,
        "most_bytes": min(instance_mb * 10**6, 2**29),
    }
    found = dimse_options(options, listen, tls)
    found.context(server=True)  # refused before anything is opened
    return found


def _say(event: "Event") -> None:
    fields = dict(event.fields)
    number = fields.pop("study", None)
    subject = f"study {number} " if number is not None else ""
    rest = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in ({}, ""))
    line = f"{event.at.astimezone():%H:%M:%S} {subject}{event.kind}{': ' if rest else ''}{rest}"
    tell(line, alarm=event.kind == "failed")


@app.command(epilog=example("salus serve status ./node"))
def status(
    folder: Folder,
    uids: Annotated[
        bool, typer.Option("--uids", help="Also show StudyInstanceUIDs, which name the studies in the PACS.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what waits, what has failed and why, and what was not taken; exit code 20 if a study has failed."""
    from salus.client.serving.handling import open_folder
    from salus.client.serving.studies import DISCARDED, FAILED, SENT, Studies
    from salus.common.clock import SystemClock
    from salus.common.errors import DataError
    from salus.common.lock import is_running

    open_folder(folder, create=False)
    found = Studies(folder, SystemClock())
    states, listed = found.by_state(), found.listed()
    values = {
        "format": FORMAT,
        "running": is_running(folder),
        "states": states,
        "counts": found.counts(),
        "studies": [_plain(study, uids) for study in listed],
    }
    if as_json:
        emit_json(values)
    else:
        out.print("The node is running." if values["running"] else "The node is not running.")
        if listed:
            table("Studies", ["", ""], [(state, count) for state, count in states.items() if count])
        else:
            out.print("No study has arrived yet.")
        if values["counts"]:
            table("Not taken", ["", ""], sorted(found.counts().items()))
        open_ones = [study for study in listed if study.state not in (SENT, DISCARDED)][:50]
        if open_ones:
            columns = ["number", "state", "objects received", "tries", "reason", "what was found", *(["study"] * uids)]
            rows = [
                (one.id, one.state, one.instances or "", one.tries, one.reason, one.detail, *([one.study_uid] * uids))
                for one in open_ones
            ]
            table("Not yet sent", columns, rows)
    if states[FAILED]:
        raise typer.Exit(DataError.exit_code)


def _plain(study: "Study", uids: bool) -> dict[str, Any]:
    names = ("id", "state", "instances", "objects", "refused", "begun", "tries", "reason", "detail", "kept")
    values = {name: getattr(study, name) for name in (*names, "files", "arrived_at", "changed_at")}
    return {**values, **({"study_uid": study.study_uid} if uids else {})}


@app.command(epilog=example("salus serve retry ./node 7"))
def retry(folder: Folder, study: Number) -> None:
    """Try a failed study again; the node may be running."""
    from salus.client.serving import handling
    from salus.client.serving.studies import Studies
    from salus.common.clock import SystemClock

    handling.open_folder(folder, create=False)
    studies = Studies(folder, SystemClock())
    out.print(handling.retry(studies, studies.get(study)), markup=False)


@app.command(epilog=example("salus serve discard ./node 7"))
def discard(folder: Folder, study: Number) -> None:
    """Remove the files of a failed study; its row stays. The node may be running."""
    from salus.client.serving import handling
    from salus.client.serving.studies import Studies
    from salus.common.clock import SystemClock

    handling.open_folder(folder, create=False)
    studies = Studies(folder, SystemClock())
    handling.discard(folder, studies, studies.get(study))
    out.print(f"Discarded study {shown(study)}.")
