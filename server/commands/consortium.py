"""`salus consortium`: create a consortium, add and remove members, issue rosters and kits, show its state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from salus.common.clock import SystemClock
from salus.common.console import emit_json, example, group, out, show_fingerprint, shown, table

app = group("Manage the consortium: its members, roster and kits.")
Folder = Annotated[
    Path, typer.Argument(help="The consortium's folder; keep it off the coordinator's machine if possible.")
]


@app.command(epilog=example("salus consortium init ./consortium --name 'Paediatric imaging'"))
def init(folder: Folder, name: Annotated[str, typer.Option(help="The consortium's name.")]) -> None:
    """Create a consortium with its signing key and certificate authority."""
    from salus.server.consortium import Consortium

    made = Consortium.create(folder, name, SystemClock())
    out.print(
        f"Created the consortium [bold]{shown(name)}[/]. Every member should compare its fingerprint by telephone:"
    )
    show_fingerprint(made.public_key)


@app.command("add-site", epilog=example("salus consortium add-site ./consortium ./site/site.request"))
def add_site(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="The request file of a site or of the coordinator.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the keys of a known member with those of this request.")
    ] = False,
) -> None:
    """Add a member. Compare its fingerprint by telephone first. It takes part after the next `issue`."""
    from salus.common.identity import unhex
    from salus.common.kit import read_request
    from salus.server.consortium import Consortium

    member, consortium = read_request(request), Consortium(folder, SystemClock())
    before = consortium.member(member)
    number = consortium.add(member, replace=replace)
    role = f"site {number}" if number else "the COORDINATOR"
    if before is not None and before.public_key != member.public_key:
        out.print(f"Replaced the keys of [bold]{shown(member.name)}[/], {shown(role)}.")
        show_fingerprint(unhex(before.public_key), "Old key fingerprint")
        show_fingerprint(unhex(member.public_key), "New key fingerprint")
    else:
        out.print(f"Added [bold]{shown(member.name)}[/] as {shown(role)}.")
        show_fingerprint(unhex(member.public_key), "Key fingerprint")
    out.print(
        "Run salus consortium issue. A new member needs its first kit; the others fetch theirs through the coordinator."
    )


@app.command("remove-site", epilog=example("salus consortium remove-site ./consortium 'St. Mary'"))
def remove_site(folder: Folder, site: Annotated[str, typer.Argument(help="The site's name or number.")]) -> None:
    """Remove a site. Its number is never reused; running jobs treat it as a site that is offline."""
    from salus.server.consortium import Consortium

    removed = Consortium(folder, SystemClock()).remove(site)
    out.print(f"Removed [bold]{shown(removed.request.name)}[/], site {removed.id}.")
    out.print(
        "Run salus consortium issue and install coordinator.kit at the coordinator; the removal takes effect only then."
    )


@app.command(epilog=example("salus consortium issue ./consortium ./kits"))
def issue(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="Folder to write the kits to.")],
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Days for which the roster and the certificates are valid.")
    ] = 365,
    if_due: Annotated[
        bool,
        typer.Option(
            "--if-due", help="Do nothing while more than a third of the newest roster's time is left; for cron."
        ),
    ] = False,
) -> None:
    """Sign a new roster and write the kits; the coordinator passes them on, except a new member's first one."""
    from salus.server.consortium import Consortium

    clock = SystemClock()
    consortium = Consortium(folder, clock)
    newest = consortium.newest_roster()
    if if_due and newest is not None and not newest.due(clock.now()):
        out.print(f"Roster {newest.serial} is valid until {newest.valid_until:%Y-%m-%d}: nothing to do.")
        return
    kits = consortium.issue(output, days=days)
    coordinator = consortium.state.coordinator
    names = [coordinator.name if coordinator else "", *(site.request.name for site in consortium.state.sites)]
    table(f"Roster {consortium.state.serial}", ["member", "kit"], zip(names, kits, strict=True))
    out.print("Install coordinator.kit with salus server join. New members install theirs with salus client join.")


@app.command(epilog=example("salus consortium status ./consortium --fetched ./coordinator"))
def status(
    folder: Folder,
    fetched: Annotated[
        Path | None,
        typer.Option(help="The coordinator's folder, or a copy of its trust/fetched.json: who has which roster."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the members, the roster's dates, what the next `issue` changes, and which site has fetched which roster."""
    from salus.server.consortium import Consortium
    from salus.server.consortium_status import status_of
    from salus.server.fetched import read_fetched

    clock = SystemClock()
    known = read_fetched(fetched) if fetched else {}
    values = status_of(Consortium(folder, clock), known, clock.now())
    if as_json:
        emit_json(values)
        return
    until = f", valid until {values['valid_until'][:10]}" if values["valid_until"] else ""
    out.print(f"[bold]{shown(values['consortium'])}[/], roster {shown(values['serial'])}{shown(until)}.")
    out.print(f"Fingerprint: {shown(values['fingerprint'])}", highlight=False, soft_wrap=True)
    out.print(f"In words: {shown(values['words'])}", highlight=False, soft_wrap=True)
    rows = [("", values["coordinator"])] if values["coordinator"] else []
    rows += [(str(site["site"]), site) for site in values["sites"]]
    table(
        "",
        ["site", "member", "on the roster", "has roster", "key fingerprint"],
        [(number, m["name"], m["roster"], _has(m, number), m["fingerprint"]) for number, m in rows],
    )
    for gone in values["removed"]:
        out.print(f"Removed since: [bold]{shown(gone['name'])}[/], site {shown(gone['site'])}.")
    for sentence in values["to_do"]:
        out.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _has(member: Mapping[str, Any], number: str) -> str:
    """Return which roster a site has, for the table."""
    if not number:
        return ""
    if member["fetched"] is None:
        return "not known here"
    return f"{member['fetched']}: {member['problem']}" if member["problem"] else str(member["fetched"])
