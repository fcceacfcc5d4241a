import csv
from pathlib import Path

from salus.client.outgoing.tables import write_table


def test_text_stays_text_and_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows: list[dict[str, object]] = [
        {"file": "=cmd()", "label": "a,b", "p": 0.123456789, "n": 3},
        {"file": "-2", "p": -1e-9},
    ]
    write_table(path, ["file", "label", "p", "n"], rows)
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found[0] == {"file": "'=cmd()", "label": "a,b", "p": "0.123457", "n": "3"}
    assert found[1] == {"file": "-2", "label": "", "p": "-1e-09", "n": ""}
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.csv"]
