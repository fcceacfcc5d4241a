"""Write the conformance table of `docs/data.md`, in the manner of a DICOM conformance statement, from the code's own lists.

    python docs/generate_conformance.py

A test fails when the table is out of date.
"""

from pathlib import Path

from pydicom.uid import UID

from salus.client.data.dicom.elements import ELEMENTS
from salus.client.data.dicom.kinds import CLASSES, STORAGE
from salus.client.data.dicom.syntaxes import SYNTAXES

PAGE = Path(__file__).with_name("data.md")
BEGIN = "<!-- Written by `python docs/generate_conformance.py` from the code; do not edit it here. -->"
END = "<!-- End of the conformance table. -->"


def page(text: str) -> str:
    """Return the page with its table as the code has it; raises ValueError if the page has no place for it."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError("expected the two comments that enclose the table")
    return "".join((before, BEGIN, "\n\n", table(), "\n", END, after))


def table() -> str:
    """Return the three tables: storage classes, transfer syntaxes, elements."""
    lines = ["| storage class | as | what is done |", "|---|---|---|"]
    for entry in CLASSES:
        lines.append(f"| {'; '.join(map(_class, entry.uids))} | {entry.kind} | {_cell(entry.done)} |")
    lines += ["", "| transfer syntax | what is done |", "|---|---|"]
    lines += [f"| {syntax.uid.name} (`{syntax.uid}`) | {_cell(syntax.how)} |" for syntax in SYNTAXES]
    lines += ["| every other one | refused by its name |", "", "| elements | action | what is done |", "|---|---|---|"]
    for element in ELEMENTS:
        lines.append(f"| {', '.join(element.keywords)} | {element.action} | {_cell(element.how)} |")
    return "\n".join(lines) + "\n"


def _class(uid: str) -> str:
    if uid.endswith("."):
        return f"all below `{STORAGE}{uid}`"
    name = UID(STORAGE + uid).name
    return f"`{STORAGE}{uid}`" if not name or name.startswith(STORAGE) else name.removesuffix(" Storage")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
