"""`salus job submit --canary`: try a job out, and print what would stop it at which site."""

from pathlib import Path
from typing import Any

import typer

from salus.common.console import emit_json, out, shown, table
from salus.common.errors import UnfitError

LONGEST_S = 86_400.0  # each exchange has its own limit


def try_out(folder: Path, text: str, *, as_json: bool) -> None:
    """Run a canary and print its result; exit code 44 if the job would not run."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder, LONGEST_S)
    if not as_json:
        out.print(
            "Trying the job out; sites that work for another job are tried when they are free ...", soft_wrap=True
        )
    found = client.post("/canary", text)
    if as_json:
        emit_json(found)
    else:
        show(found, {site["site"]: site["name"] for site in client.get("/status")["sites"]})
    if not found["possible"]:
        raise typer.Exit(UnfitError.exit_code)


def show(found: dict[str, Any], names: dict[int, str]) -> None:
    """Print the result of a canary."""
    problems = {int(site): text for site, text in found["problems"].items()}
    states = dict.fromkeys(found["tried"], "would take part") | dict.fromkeys(found["offline"], "offline: not tried")
    rows = [
        (site, names.get(site, ""), "would not take part" if site in problems else states[site])
        for site in sorted(states)
    ]
    table("Canary", ["site", "name", ""], rows)
    for site, text in problems.items():
        out.print(f"site {shown(site)}: {shown(text)}", style="red", highlight=False, soft_wrap=True)
    if found["why"]:
        out.print(f"The round did not come about: {shown(found['why'])}", style="red", highlight=False, soft_wrap=True)
    out.print(
        f"The job {'would' if found['possible'] else 'would not'} run: {shown(found['needed'])} sites are needed. Nothing was "
        "kept, reserved or spent. What is wrong with a site's data, if anything, is in its own log (event canary-failed).",
        style=None if found["possible"] else "bold red",
        highlight=False,
        soft_wrap=True,
    )
