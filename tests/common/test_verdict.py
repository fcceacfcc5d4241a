"""What a site answers to a check, and what a hostile answer may cost the coordinator: next to nothing."""

import json
from typing import NoReturn

import pytest

from salus.common import strict
from salus.common.declaration import Declaration, DeclaredColumn
from salus.common.errors import WireError
from salus.common.job_sections import MAX_COLUMNS
from salus.common.strict import values_in
from salus.common.verdict import MAX_VERDICT_BYTES, MAX_VERDICT_VALUES, Problem, Verdict, read_verdict

PROBLEM = Problem(requirement="policy", text="No.")
SMALL = Declaration(kind="images", classes=("a", "b"))
LARGEST = Declaration(
    kind="table", columns=tuple(DeclaredColumn(name=f"column of some length {n}") for n in range(MAX_COLUMNS))
)


def filled(begin: bytes, unit: bytes, end: bytes, size: int) -> bytes:
    return (begin + unit * ((size - len(begin) - len(end)) // len(unit))).rstrip(b",") + end


PROBLEMS = b'{"problems":[', b"]}"


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b'"",', b"[[[[]]]],"])
def test_a_hostile_verdict_is_refused_by_its_size_before_it_is_parsed(
    unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 MiB of numbers took 3 GB, most of it for descriptions of the mistakes."""

    def parsed(*_: object) -> NoReturn:
        raise AssertionError("It was parsed.")

    monkeypatch.setattr(strict.json, "loads", parsed)
    for size in (4 * 2**20, MAX_VERDICT_BYTES):
        with pytest.raises(WireError, match=f"verdict on a job of at most {MAX_VERDICT_BYTES} bytes and"):
            read_verdict(filled(PROBLEMS[0], unit, PROBLEMS[1], size))


def test_the_mistakes_of_a_verdict_within_its_size_are_counted_and_not_described() -> None:
    data = filled(PROBLEMS[0], b"1,", PROBLEMS[1], 2 * (MAX_VERDICT_VALUES - 10))
    assert values_in(data) <= MAX_VERDICT_VALUES
    with pytest.raises(WireError, match=r"it has \d{5} mistakes"):
        read_verdict(data)
    with pytest.raises(WireError, match=r"problems\[0\]: expected a table"):
        read_verdict(b'{"problems":[1]}')


def test_the_bound_on_values_is_above_what_the_text_holds() -> None:
    for values, count in ([], 1), ({"a": [1, 2], "b": {}}, 5), (["a,b"], 2), (None, 1):
        assert values_in(json.dumps(values).encode()) >= count


def test_the_largest_declaration_of_a_table_travels_and_others_are_left_out_for_it() -> None:
    whole = Verdict(problems=(PROBLEM,), declarations={"mine": LARGEST, "other": LARGEST, "third": SMALL})
    with pytest.raises(WireError, match="at most"):
        read_verdict(whole.encode())
    assert read_verdict(whole.fitting("mine").encode()) == Verdict(problems=(PROBLEM,), declarations={"mine": LARGEST})
    many = Verdict(declarations={f"set-{n}": SMALL for n in range(1000)})
    assert many.fitting("set-0") == many == read_verdict(many.encode())


def test_a_declaration_that_is_too_large_by_itself_is_left_out() -> None:
    long = tuple(DeclaredColumn(name=f"{n} {'x' * 58}", unit="y" * 32) for n in range(MAX_COLUMNS))
    found = Verdict(problems=(PROBLEM,), declarations={"mine": Declaration(kind="table", columns=long)})
    assert found.fitting("mine") == Verdict(problems=(PROBLEM,), declarations={})
