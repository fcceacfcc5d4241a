"""The section that a training job takes over is the numbers that were found and nothing else, whatever the names are."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from salus.common.job import Job, parse_job
from salus.server.statistics_report import tables_of, transforms_section

JOB = """
[job]
name = "measure"
rounds = 1
[task]
dataset = "toy"
classes = ["no", "yes"]
shape = [8, 8]
[statistics]
kind = "{kind}"
intensity_low = -1024.0
intensity_high = 3071.5
"""
NAMES = st.text(min_size=1, max_size=64)
NUMBERS = st.floats(-1e9, 1e9)
ATTACK = 'A", 0.0, 1.0]]\nkind = "nyul"\n[privacy]\nnoise = "none"\n#'


def job(kind: str) -> Job:
    return parse_job(JOB.format(kind=kind))


@given(st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_names_of_groups_come_back_as_they_were(groups: dict[str, tuple[float, float]]) -> None:
    found = {name: {"centre": centre, "scale": scale, "quantiles": {}} for name, (centre, scale) in groups.items()}
    read = tomllib.loads(transforms_section(job("quantiles"), {"groups": found}))
    step = {"kind": "zscore", "groups": [[name, *numbers] for name, numbers in groups.items()]}
    assert read == {"task": {"transforms": [step, {"kind": "resize"}]}}


def test_a_name_cannot_add_a_section() -> None:
    text = transforms_section(job("quantiles"), {"groups": {ATTACK: {"centre": 1.0, "scale": 2.0}}})
    step = {"kind": "zscore", "groups": [[ATTACK, 1.0, 2.0]]}
    assert tomllib.loads(text) == {"task": {"transforms": [step, {"kind": "resize"}]}}


@given(st.lists(NUMBERS, min_size=11, max_size=11))
def test_numbers_come_back_exactly(numbers: list[float]) -> None:
    nyul, resize = tomllib.loads(transforms_section(job("nyul"), {"landmarks": numbers}))["task"]["transforms"]
    (combat,) = tomllib.loads(transforms_section(job("combat"), {"constants": numbers}))["task"]["transforms"]
    assert resize == {"kind": "resize"}
    assert nyul == {"kind": "nyul", "landmarks": numbers}
    assert combat == {"kind": "combat", "constants": numbers, "intensity_low": -1024.0, "intensity_high": 3071.5}


def test_nothing_to_take_over_is_an_empty_text() -> None:
    assert transforms_section(job("summary"), {}) == ""
    assert transforms_section(job("quantiles"), {"groups": {"ALL": {"quantiles": {}}}}) == ""


def test_a_bin_is_shown_with_both_edges_and_a_label_as_it_is() -> None:
    edges = {"unknown": 3.0, "below 16": 0.0, "16": 0.0, "32": 578.0, "64": 5.0}
    result = {"patients": 9, "images": 9, "blocks": {"rows": edges, "labels": {"0": 4.0, "1": 5.0}}}
    rows = {section.title: [row[0] for row in section.rows] for section in tables_of(result)}
    assert rows["rows"] == ["unknown", "32 to below 64", "64 or more"]
    assert rows["labels"] == ["0", "1"]


def test_columns_of_trees_are_listed_by_their_share_of_the_gain() -> None:
    result = {"patients": 90.0, "images": 90.0, "kind": "boosting", "importance": {"age": 0.25, "st": 0.75}}
    section = {section.title: section for section in tables_of(result)}["Columns of the trees"]
    assert list(section.rows) == [("st", "75.0%"), ("age", "25.0%")]
