"""`salus consortium`: found a consortium, admit members, issue rosters and kits."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.clock import SystemClock
from salus.common.console import example, group, out, table

app = group("The consortium: its authority, its members, their kits.")
Folder = Annotated[
    Path, typer.Argument(help="The consortium's folder; keep it off the coordinator's machine if you can.")
]


@app.command(epilog=example("salus consortium init ./consortium --name 'Paediatric imaging'"))
def init(folder: Folder, name: Annotated[str, typer.Option(help="The consortium's name.")]) -> None:
    """Found a consortium: its signing key and its certificate authority."""
    from salus.common.identity import fingerprint
    from salus.server.consortium import Consortium

    made = Consortium.create(folder, name, SystemClock())
    out.print(
        f"Founded [bold]{name}[/]. Fingerprint that every member should compare: [bold]{fingerprint(made.public_key)}[/]"
    )


@app.command("add-site", epilog=example("salus consortium add-site ./consortium ./site/site.request"))
def add_site(
    folder: Folder, request: Annotated[Path, typer.Argument(help="The request of a site or of the coordinator.")]
) -> None:
    """Admit a member; compare its fingerprint by telephone first."""
    from salus.common.identity import fingerprint, unhex
    from salus.common.kit import read_request
    from salus.server.consortium import Consortium

    member = read_request(request)
    number = Consortium(folder, SystemClock()).add(member)
    role = f"site {number}" if number else "coordinator"
    out.print(f"Added {member.name} as {role}. Key fingerprint: [bold]{fingerprint(unhex(member.public_key))}[/]")


@app.command(epilog=example("salus consortium issue ./consortium ./kits"))
def issue(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="Where the kits are written.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long roster and certificates are valid.")] = 365,
) -> None:
    """Sign a new roster and write one kit for every member."""
    from salus.server.consortium import Consortium

    consortium = Consortium(folder, SystemClock())
    kits = consortium.issue(output, days=days)
    coordinator = consortium.state.coordinator
    names = [coordinator.name if coordinator else "", *(site.name for site in consortium.state.sites)]
    table("Issued", ["member", "kit"], zip(names, kits, strict=True))
