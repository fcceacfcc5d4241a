"""`salus consortium`: found a consortium, admit and remove members, issue rosters and kits."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.clock import SystemClock
from salus.common.console import example, group, out, shown, table

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
        f"Founded [bold]{shown(name)}[/]. Every member should compare this fingerprint: "
        f"[bold]{fingerprint(made.public_key)}[/]"
    )


@app.command("add-site", epilog=example("salus consortium add-site ./consortium ./site/site.request"))
def add_site(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="The request of a site or of the coordinator.")],
    replace: Annotated[bool, typer.Option("--replace", help="Give a known member the keys of this request.")] = False,
) -> None:
    """Admit a member. Compare its fingerprint by telephone first. It takes part from the next `issue` on."""
    from salus.common.identity import fingerprint, unhex
    from salus.common.kit import read_request
    from salus.server.consortium import Consortium

    member, consortium = read_request(request), Consortium(folder, SystemClock())
    before = consortium.member(member)
    number = consortium.add(member, replace=replace)
    role = f"site {number}" if number else "the COORDINATOR"
    new = fingerprint(unhex(member.public_key))
    if before is not None and before.public_key != member.public_key:
        out.print(f"Replaced the keys of [bold]{shown(member.name)}[/], {shown(role)}.")
        out.print(f"Old key fingerprint: {fingerprint(unhex(before.public_key))}")
        out.print(f"New key fingerprint: [bold]{shown(new)}[/]")
    else:
        out.print(f"Added [bold]{shown(member.name)}[/] as {shown(role)}. Key fingerprint: [bold]{shown(new)}[/]")
    out.print("Run salus consortium issue and send every member its new kit.")


@app.command("remove-site", epilog=example("salus consortium remove-site ./consortium 'St. Mary'"))
def remove_site(folder: Folder, site: Annotated[str, typer.Argument(help="The site's name, or its number.")]) -> None:
    """End a site's membership. Its number is never given again; running jobs treat it as a site that is away."""
    from salus.server.consortium import Consortium

    removed = Consortium(folder, SystemClock()).remove(site)
    out.print(f"Removed [bold]{shown(removed.request.name)}[/], site {removed.id}.")
    out.print("Run salus consortium issue and send every other member its new kit; until then nothing changes.")


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
    names = [coordinator.name if coordinator else "", *(site.request.name for site in consortium.state.sites)]
    table(f"Roster {consortium.state.serial}", ["member", "kit"], zip(names, kits, strict=True))
