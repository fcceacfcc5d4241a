"""`salus dataset withdraw` and `withdrawals`, and `salus client withdraw`: a patient or the whole site withdraws."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands.intake import Folder
from salus.common.console import emit_json, example, out, shown, table
from salus.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from salus.client.withdrawing.paper import JobLine, Paper
    from salus.client.withdrawing.run import Opened

COLUMN = "PatientID"
MAX_LINES = 10_001  # each patient has a paper of its own
MAX_BYTES = 4 * 2**20  # more than so many lines with identifiers of the longest kind
PSEUDONYM_DIGITS = 32
Confirmed = Annotated[bool, typer.Option("--yes", help="Withdraw without asking; needed with --json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_identifiers(path: Path) -> list[tuple[int, str]]:
    """Return the identifiers in an operator's file as written there, each with its line.

    Raises:
        DataError: no such file, another column, too many lines, or an empty cell; it names the line and no identifier.
    """
    from salus.client.data.sources.label_file import lines_of
    from salus.common.cells import read_cell

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError:
        raise DataError(f"Cannot read {path.name!r}.", remedy="Check the path.") from None
    lines = lines_of(data if len(data) <= MAX_BYTES else b"", path.name)
    header = [cell.strip() for cell in lines.lines[0]] if lines.lines else []
    if header != [COLUMN] or not 1 < len(lines.lines) <= MAX_LINES:
        raise DataError(
            f"Expected a CSV with the one column {COLUMN} in {path.name!r}, with 1 to {MAX_LINES - 1} identifiers.",
            remedy=f"Write {COLUMN} in the first line, and one identifier of a patient in each line after it.",
        )
    found = [(number, read_cell(row[COLUMN])) for number, row in lines.rows()]
    for number, identifier in found:
        if not identifier.strip():
            raise DataError(f"An identifier is missing in {path.name!r}, line {number}.", remedy="Complete the line.")
    return found


def withdraw(
    folder: Folder,
    file: Annotated[
        Path | None, typer.Argument(help="CSV with the column PatientID: the hospital's own identifiers.")
    ] = None,
    pseudonym: Annotated[
        list[str] | None, typer.Option(help="Instead: a patient's pseudonym in the catalogue; may be repeated.")
    ] = None,
    in_advance: Annotated[
        bool, typer.Option("--in-advance", help="Also take identifiers of which no image is here yet.")
    ] = False,
    yes: Confirmed = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw patients: nothing uses them from the next step on, in any data set, now or later. This cannot be undone.

    It reaches a running daemon at once. For each patient there is a signed paper in withdrawals/ that names nobody,
    and a page for the patient's file. A withdrawal that was interrupted is finished first; without a file or a
    pseudonym nothing else is done. docs/withdrawal.md says what a withdrawal cannot undo.
    """
    from salus.client.withdrawing import run
    from salus.common.clock import SystemClock

    if file is not None and pseudonym:
        raise ConfigError("Expected a file or pseudonyms, got both.", remedy="Give one of them.")
    site = run.Opened.open(folder, SystemClock())
    asked = file is not None or bool(pseudonym)
    if not asked and not run.pending(site) and not run.merged_later(site):
        raise ConfigError("Expected the patients who withdraw.", remedy="Give a CSV file, or --pseudonym.")
    people = _people(site, file, pseudonym or (), in_advance=in_advance) if asked else []
    if people:
        _confirm(f"{len(people)} patient(s) will be withdrawn from all data sets of this site.", yes, as_json)
    for names in people:
        run.withdraw(site, names)
    _show(folder, run.finish(site), len(people), as_json)


def _people(site: "Opened", file: Path | None, pseudonyms: Sequence[str], *, in_advance: bool) -> list[tuple[str, ...]]:
    """Return the pseudonyms of each person once; raises DataError for one who is not here, without naming anybody."""
    from salus.client.data.pseudonyms import literal_pseudonym

    secret = (site.folder / "keys" / "pseudonym.key").read_bytes()
    catalogue = site.catalogue
    known = frozenset().union(catalogue.withdrawals.names(), *(catalogue.patients(name) for name in catalogue.names()))
    into = catalogue.merges.all()
    others: dict[str, list[str]] = {}
    for other, kept in into.items():
        others.setdefault(kept, [kept]).append(other)

    def person(name: str) -> list[str]:
        kept = into.get(name, name)
        return others.get(kept, [kept])

    found: dict[str, tuple[str, ...]] = {}
    missing: list[str] = []
    for number, identifier in read_identifiers(file) if file is not None else ():
        present = catalogue.pseudonym("patient", identifier)
        both = (present, literal_pseudonym(secret, "patient", identifier))  # the second of versions before `identity`
        names = tuple(sorted({other for name in both for other in person(name)}))
        if known.isdisjoint(names) and not site.used(names):
            missing.append(f"line {number}")
        found[min(person(present))] = names
    for place, name in enumerate(pseudonyms, start=1):
        if len(name) != PSEUDONYM_DIGITS or set(name) - set("0123456789abcdef"):
            raise ConfigError(f"Expected 32 hexadecimal digits as pseudonym {place}.", remedy="Copy it whole.")
        if known.isdisjoint(every := person(name)) and not site.used(every):
            missing.append(f"pseudonym {place}")
        found[min(person(name))] = (name,)
    if missing and not in_advance:
        listed = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise DataError(
            f"No registered image and no job belongs to {len(missing)} of the patients ({listed}); nothing was changed.",
            remedy="Compare the identifiers, leading zeros included. To refuse patients who are not here yet: --in-advance.",
        )
    return list(found.values())


def withdraw_site(folder: Folder, yes: Confirmed = False, as_json: AsJson = False) -> None:
    """Withdraw the whole site with all of its patients: every later request is refused. This cannot be undone.

    A round whose vector was sent already is ended with the others; nothing new begins, also in a running daemon. Open
    jobs are closed in the ledger. To take part again, a new site is created and joins the consortium.
    """
    from salus.client.withdrawing import run
    from salus.common.clock import SystemClock

    site = run.Opened.open(folder, SystemClock())
    _confirm(
        "The whole site will be withdrawn with all of its patients; it refuses every job from now on.", yes, as_json
    )
    run.withdraw_site(site)
    _show(folder, run.finish(site), 1, as_json)


def withdrawals(folder: Folder, as_json: AsJson = False) -> None:
    """Check and list the signed papers: signatures, order and completeness; exit code 42 if one does not hold.

    An interrupted withdrawal is listed as not finished: the patient is not used, but its paper is missing.
    """
    from salus.client.withdrawing import run
    from salus.client.withdrawing.paper import check_papers
    from salus.common.clock import SystemClock

    site = run.Opened.open(folder, SystemClock())
    papers = check_papers(folder, site.catalogue.withdrawals.all(), site.identity.public_key)
    waiting = [one.number for one in run.pending(site)]
    if as_json:
        emit_json({"papers": [paper.model_dump(mode="json") for paper in papers], "not_finished": waiting})
        return
    if papers:
        _list(papers)
        out.print(f"{len(papers)} paper(s): every signature is this site's, and none is missing.")
    if waiting:
        out.print(
            f"{len(waiting)} withdrawal(s) not finished: the patients are not used, but there is no paper yet. "
            "Finish: salus dataset withdraw FOLDER",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    if not papers and not waiting:
        out.print("Nobody has withdrawn.")


def _confirm(what: str, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json:
        raise ConfigError(
            "A withdrawal cannot be undone, so it is confirmed.", remedy="Give --yes together with --json."
        )
    out.print(f"{what} This cannot be undone.", markup=False, soft_wrap=True)
    typer.confirm("Withdraw?", abort=True)


def _show(folder: Path, papers: "Sequence[Paper]", asked: int, as_json: bool) -> None:
    from salus.client.withdrawing.paper import path_of

    if as_json:
        pages = [str(path_of(folder, paper.number).with_suffix(".html")) for paper in papers]
        emit_json({"papers": [paper.model_dump(mode="json") for paper in papers], "pages": pages})
        return
    if not papers:
        out.print(f"{shown(asked)} had withdrawn before; nothing was changed." if asked else "Nothing was left to do.")
        return
    _list(papers)
    for paper in papers:
        path = path_of(folder, paper.number)
        out.print(
            f"Signed paper: {shown(path)}. For the patient's file: {shown(path.with_suffix('.html'))}", soft_wrap=True
        )
    if any(line.noise is False for paper in papers for line in paper.jobs):
        out.print(
            "Jobs without noise used the data: their sums over these data sets end at this site in the present cohort_epoch, "
            "see docs/withdrawal.md.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _list(papers: "Sequence[Paper]") -> None:
    table(
        "Withdrawals",
        ["paper", "day", "who", "jobs: certain", "possible", "epsilon"],
        [
            (
                paper.number,
                paper.day,
                paper.who,
                sum(line.use == "certain" for line in paper.jobs),
                sum(line.use == "possible" for line in paper.jobs),
                f"{paper.epsilon:.4g}",
            )
            for paper in papers
        ],
    )
    jobs = [(paper.number, *_columns(line)) for paper in papers for line in paper.jobs]
    if jobs:
        table("Jobs", ["paper", "job", "data set", "use", "first round", "epsilon", "packages here"], jobs)


def _columns(line: "JobLine") -> tuple[object, ...]:
    return (
        line.job,
        line.dataset or "unknown",
        line.use,
        "unknown" if line.first_round is None else line.first_round,
        "no noise" if line.epsilon is None else f"{line.epsilon:.4g}",
        ", ".join(package[:16] for package in line.packages) or "none",
    )


def register(app: typer.Typer) -> None:
    """Add the commands to those of the data."""
    app.command(epilog=example("salus dataset withdraw ./site withdrawn.csv"))(withdraw)
    app.command(epilog=example("salus dataset withdrawals ./site"))(withdrawals)


def register_site(app: typer.Typer) -> None:
    """Add the command to those of a site."""
    app.command("withdraw", epilog=example("salus client withdraw ./site"))(withdraw_site)
