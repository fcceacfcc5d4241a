"""`salus dataset refused`: the files of a data set that are not used, by name, for the site alone."""

from typing import Annotated

import typer

from salus.client.commands.intake import Folder, Name
from salus.common.console import emit_json, example, out, shown, table
from salus.common.names import visible

MOST = 1000


def refused(
    folder: Folder,
    name: Name,
    reason: Annotated[str, typer.Option(help="Only files of this reason.")] = "",
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also what was set aside, such as label files, and label rows without an image."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Files to list at most.")] = MOST,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the files that are not used: name, reason, the DICOM element if there is one, and what to do; never sent anywhere."""
    from salus.client.config import open_catalogue
    from salus.client.data.remedies import element_of, remedy_of
    from salus.client.data.sources.accompanying import NOT_REFUSED

    catalogue = open_catalogue(folder)
    counts = catalogue.unused(name)
    wanted = {reason} if reason else set(counts) if everything else set(counts) - NOT_REFUSED
    found = catalogue.quarantined(name, wanted, limit)
    if as_json:
        files = [
            {"file": item.key, "reason": item.reason, "element": element_of(item.detail), "detail": item.detail}
            for item in found
        ]
        emit_json(
            {
                "counts": counts,
                "remedies": {code: remedy_of(code) for code in sorted(wanted & set(counts))},
                "files": files,
            }
        )
        return
    rows = [(code, counts[code], remedy_of(code)) for code in sorted(wanted & set(counts))]
    if rows:
        table("Not used", ["reason", "files", "what to do"], rows)
    for item in found:
        element = element_of(item.detail)
        out.print(
            f"{visible(item.key)}: {item.reason}{f' ({element})' if element else ''}: {item.detail}",
            markup=False,
            soft_wrap=True,
        )
    more = sum(counts.get(code, 0) for code in wanted) - len(found)
    if more > 0:
        out.print(f"{shown(more)} more; list them with --limit.")
    if not rows:
        out.print("No file was refused.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus dataset refused ./site chest-xray --reason unsupported"))(refused)
