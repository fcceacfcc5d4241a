"""`salus consortium`: create a consortium, add and remove members, issue rosters and kits."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.clock import SystemClock
from salus.common.console import example, group, out, shown, table

app = group("Manage the consortium: its members, roster and kits.")
Folder = Annotated[
    Path, typer.Argument(help="The consortium's folder; keep it off the coordinator's machine if possible.")
]


@app.command(epilog=example("salus consortium init ./consortium --name 'Paediatric imaging'"))
def init(folder: Folder, name: Annotated[str, typer.Option(help="The consortium's name.")]) -> None:
    """Create a consortium with its signing key and certificate authority."""
    from salus.common.identity import fingerprint
    from salus.server.consortium import Consortium

    made = Consortium.create(folder, name, SystemClock())
    out.print(
        f"Created the consortium [bold]{shown(name)}[/]. Every member should compare this fingerprint: "
        f"[bold]{fingerprint(made.public_key)}[/]"
    )


@app.command("add-site", epilog=example("salus consortium add-site ./consortium ./site/site.request"))
def add_site(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="The request file of a site or of the coordinator.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the keys of a known member with those of this request.")
    ] = False,
) -> None:
    """Add a member. Compare its fingerprint by telephone first. It takes part after the next `issue`."""
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
        out.print(
            f"Added [bold]{shown(member.name)}[/] as {shown(role)}. Key fingerprint: [bold]{shown(new)}[/]",
            soft_wrap=True,
        )
    out.print("Run salus consortium issue and send every member its new kit.")


@app.command("remove-site", epilog=example("salus consortium remove-site ./consortium 'St. Mary'"))
def remove_site(folder: Folder, site: Annotated[str, typer.Argument(help="The site's name or number.")]) -> None:
    """Remove a site. Its number is never reused; running jobs treat it as a site that is offline."""
    from salus.server.consortium import Consortium

    removed = Consortium(folder, SystemClock()).remove(site)
    out.print(f"Removed [bold]{shown(removed.request.name)}[/], site {removed.id}.")
    out.print("Run salus consortium issue and send every other member its new kit; the removal takes effect only then.")


@app.command(epilog=example("salus consortium issue ./consortium ./kits"))
def issue(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="Folder to write the kits to.")],
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Days for which the roster and the certificates are valid.")
    ] = 365,
) -> None:
    """Sign a new roster and write a kit for every member."""
    from salus.server.consortium import Consortium

    consortium = Consortium(folder, SystemClock())
    kits = consortium.issue(output, days=days)
    coordinator = consortium.state.coordinator
    names = [coordinator.name if coordinator else "", *(site.request.name for site in consortium.state.sites)]
    table(f"Roster {consortium.state.serial}", ["member", "kit"], zip(names, kits, strict=True))
