"""`salus dataset merge-patients` and `patient`: which identifiers name one person, and the identifier behind a pseudonym."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands.intake import Folder
from salus.common.console import emit_json, example, out, shown, table

if TYPE_CHECKING:
    from salus.client.data.merging import Merged

COLUMNS = ("PatientID", "OtherPatientID")
MAX_PAIRS = 1_000_000


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of identifiers in an operator's file, without those that are the same identifier.

    Raises:
        DataError: no such file, other columns, or an empty cell; it names the line and no identifier.
    """
    from salus.client.data.identity import normalised
    from salus.client.data.sources.label_file import lines_of
    from salus.common.cells import read_cell
    from salus.common.errors import DataError

    try:
        lines = lines_of(path.read_bytes(), path.name)
    except OSError:
        raise DataError(f"Cannot read {path.name!r}.", remedy="Check the path.") from None
    header = [cell.strip() for cell in lines.lines[0]] if lines.lines else []
    if sorted(header) != sorted(COLUMNS) or len(lines.lines) > MAX_PAIRS:
        raise DataError(
            f"Expected a CSV with the columns {' and '.join(COLUMNS)} in {path.name!r}, at most {MAX_PAIRS} lines.",
            remedy="Write one line for each pair of identifiers of one patient; the first one is kept.",
        )
    pairs = []
    for number, row in lines.rows():
        kept, other = (normalised(read_cell(row[column].strip())) for column in COLUMNS)
        if not kept or not other:
            raise DataError(f"An identifier is missing in {path.name!r}, line {number}.", remedy="Complete the line.")
        if kept != other:
            pairs.append((kept, other))
    return pairs


def merge_patients(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="CSV with the columns PatientID, which is kept, and OtherPatientID.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge identifiers that name one patient, in all data sets and in those to come; what either has spent, both have."""
    from dataclasses import asdict

    from salus.client.config import open_catalogue, open_ledger
    from salus.common.clock import SystemClock

    catalogue = open_catalogue(folder)
    pairs = [
        (catalogue.pseudonym("patient", kept), catalogue.pseudonym("patient", other))
        for kept, other in read_pairs(file)
    ]
    before = catalogue.withdrawals.names()
    done = catalogue.merges.merge(pairs)
    open_ledger(folder, SystemClock()).merge(catalogue.merges.all())
    withdrawn = len(catalogue.withdrawals.names() - before)
    if as_json:
        emit_json(asdict(done) | {"withdrawn": withdrawn})
        return
    _show(done)
    if withdrawn:
        out.print(
            f"{shown(withdrawn)} identifier(s) are of a patient who has withdrawn, so they have withdrawn, too. "
            "For the paper of their jobs: salus dataset withdraw FOLDER",
            style="yellow",
            soft_wrap=True,
        )


def _show(done: "Merged") -> None:
    rows = [
        ("identifiers merged", done.new),
        ("identifiers merged before", done.known),
        ("images that now belong to the patient who is kept", done.images),
    ]
    table("Patients", ["", ""], rows)
    if done.crossed:
        out.print(
            f"{done.crossed} of these patients were held out under one identifier while a model was trained on the other: "
            "earlier measurements on them may be too good. From now on they belong to the training patients.",
            style="yellow",
            markup=False,
        )


def patient(folder: Folder, pseudonym: Annotated[str, typer.Argument(help="The pseudonym in the catalogue.")]) -> None:
    """Show the hospital's own identifiers of an imported patient: to follow up a finding."""
    from salus.client.config import open_catalogue
    from salus.client.data.patient_map import PatientMap

    catalogue = open_catalogue(folder)  # fails if this is not a site's folder
    secret = (folder / "keys" / "pseudonym.key").read_bytes()
    known = PatientMap(folder / "keys")
    named = [name for name in catalogue.merges.of(pseudonym) if known.knows(name)] or [pseudonym]
    found = [known.find(name, secret) for name in named]
    for identifier in dict.fromkeys(found):
        out.print(identifier, markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=example("salus dataset merge-patients ./site same-patients.csv"))(merge_patients)
    app.command(epilog=example("salus dataset patient ./site 0123456789abcdef0123456789abcdef"))(patient)
