"""Each row of docs/faults.md names a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of each row of every table, without headers."""
    lines = (ROOT / "docs" / "faults.md").read_text().splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [cells for cells in found if cells[0] != "fault"]


def test_every_row_is_complete_and_names_tests_that_exist() -> None:
    assert len(rows()) >= 10
    for cells in rows():
        assert len(cells) == 5, cells[0]
        assert all(cells), cells[0]
        named = NAMED.findall(cells[4])
        assert named, cells[0]
        assert NAMED.sub("", cells[4]).strip(", ") == "", cells[0]
        for file, name in named:
            assert (ROOT / file).exists(), file
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_no_fault_stands_twice() -> None:
    faults = [cells[0] for cells in rows()]
    assert len(faults) == len(set(faults))
