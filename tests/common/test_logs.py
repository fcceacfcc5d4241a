"""JSON logs: nothing leaves that is not on the list, whatever an event holds."""

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.allowed import KINDS, OTHER, own_files, reduced
from salus.common.events import Event
from salus.common.expiry import ENDED, ENDS
from salus.common.logs import ERRORS, WARNINGS, json_line

ROOT = Path(__file__).resolve().parents[2]
EMITTING = ("emit", "_state")  # the second: of the site's daemon, which passes its argument on
AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
PLANT = "Mueller^Hans /srv/pacs tok_9f8e"


def line(kind: str, **fields: object) -> dict[str, object]:
    values = json.loads(json_line(Event(AT, kind, fields), "site"))  # type: ignore[arg-type]
    assert isinstance(values, dict)
    return values


def test_a_line_has_what_an_operator_needs_and_no_text() -> None:
    assert line("round", job="lungs-0003", round=4, of=10, sites=[1, 2, 5], metrics={"auc": 0.9}) == {
        "role": "site", "level": "info", "at": "2026-05-01T12:00:00+00:00", "kind": "round", "job": "lungs-0003",
        "round": 4, "of": 10, "sites_count": 3,
    }  # fmt: skip
    assert line("refused", job="lungs-0003", site=4, round=1, error="BudgetError", text=PLANT) == {
        "role": "site", "level": "warning", "at": "2026-05-01T12:00:00+00:00", "kind": "refused", "job": "lungs-0003",
        "site": 4, "round": 1, "error": "BudgetError",
    }  # fmt: skip
    assert line("unexpected", error=f"{PLANT}Error", where=f"site.py:3 > {PLANT}.py:4 > rounds.py:9")["where"] == [
        "site.py:3", OTHER, "rounds.py:9",
    ]  # fmt: skip


FIELDS = ["job", "site", "sites", "round", "error", "where", "place", "status", "seconds", "text", "patients", PLANT]
planted = st.recursive(
    st.sampled_from([PLANT, f"{PLANT}-0001", [PLANT], {PLANT: PLANT}, float("nan"), float("inf"), True, None, 10**400]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just(PLANT), inner, max_size=1),
    max_leaves=4,
)


@given(st.sampled_from([*sorted(KINDS)[:5], PLANT]), st.dictionaries(st.sampled_from(FIELDS), planted))
def test_nothing_planted_leaves(kind: str, fields: dict[str, object]) -> None:
    text = json_line(Event(AT, kind, fields), "coordinator").decode()  # type: ignore[arg-type]
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert not any(word in text for word in PLANT.split())
    assert "patients" not in text


def constants(node: ast.expr, names: dict[str, str]) -> list[str]:
    """Return the texts that an expression can be; empty for one that only passes on what it was given."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return constants(node.body, names) + constants(node.orelse, names)
        case ast.Name(id=name) if name in names:
            return [names[name]]
    return []


def emitted() -> dict[str, str]:
    """Return every kind of event in the code, with a file that emits it."""
    found, passed_on = {}, set()
    for path in sorted(path for part in ("server", "client", "common") for path in (ROOT / part).rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EMITTING:
                kinds = constants(node.args[0], names)
                found.update(dict.fromkeys(kinds, path.name))
                if not kinds:
                    passed_on.add(f"{path.parent.name}/{path.name}")
    # The kinds of these: of `RosterWatch`, the states of the link, and what the worker's own code emits.
    assert passed_on == {"client/daemon.py", "server/daemon.py"}
    return found | dict.fromkeys((ENDS, ENDED), "expiry.py")


def test_every_kind_of_event_that_the_code_emits_is_on_the_list() -> None:
    found = emitted()
    assert len(found) > 40
    assert {kind: path for kind, path in found.items() if kind not in KINDS} == {}


def test_the_plants_are_in_the_log_of_the_folder_so_that_the_test_can_fail() -> None:
    event = Event(AT, "refused", {"text": PLANT})
    assert b"Mueller" in event.to_json()
    assert PLANT not in str(reduced(event))


def test_kinds_that_have_a_level_are_on_the_list() -> None:
    assert WARNINGS | ERRORS <= KINDS
    assert {"site.py", "daemon.py"} <= own_files()


@pytest.mark.parametrize("name", ["mueller", "Mueller-0001", "a-1", "../x-0001", "a" * 200 + "-0001"])
def test_a_job_is_named_only_if_the_name_is_one_of_the_coordinators(name: str) -> None:
    assert "job" not in line("round", job=name)
