"""A site that was not in every round is named with the reason in the report and the card; cards without one are as before."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.builders import tiny_job

from salus.common.events import Event
from salus.privacy.records.card import LeftOut, ModelCard, model_card, privacy_card
from salus.server.dropped import left_out_of
from salus.server.report import write_report

NAMES = {1: "Site A", 2: "Site <b>B</b>", 3: "Site C", 4: "Site D"}
RECORDS: list[dict[str, object]] = [
    {"round": 1, "sites": [1, 2, 3, 4], "metrics_before": {}},
    {"round": 2, "sites": [1, 3], "metrics_before": {}},
    {"round": 3, "sites": [1, 3], "metrics_before": {}},
]


def event(kind: str, **fields: object) -> Event:
    return Event(datetime.now(UTC), kind, fields)  # type: ignore[arg-type]


EVENTS = [
    event("left-out", round=1, site=3, text="in a failed attempt"),
    event("round", round=1),
    event("left-out", round=2, site=2, text="it did not answer in time"),
    event("not-asked", site=4, text="offline"),
    event("round", round=2),
    event("not-asked", site=2, text="left aside for a while after 2 failures in a row"),
    event("round", round=3),
]


def found() -> tuple[LeftOut, ...]:
    return left_out_of(RECORDS, EVENTS, NAMES)


def test_who_was_missing_and_why_in_the_last_of_these_rounds() -> None:
    assert [(row.site, row.rounds, row.last, row.reason) for row in found()] == [
        (2, 2, 3, "left aside for a while after 2 failures in a row"),
        (4, 2, 3, "offline"),
    ]
    assert left_out_of(RECORDS[:1], EVENTS[:2], NAMES) == ()
    (row,) = left_out_of(RECORDS[1:2], [], {1: "A", 3: "C", 2: "B"})
    assert row.reason == "no reason is recorded"


def test_a_card_names_them_in_its_second_format_and_is_as_before_without_them() -> None:
    job = tiny_job()
    first = model_card("tiny-0001", job, privacy_card(job, None, NAMES), {}, "C")
    second = model_card("tiny-0001", job, privacy_card(job, None, NAMES), {}, "C", found())
    plain = first.model_dump(mode="json")
    assert plain["format"] == "salus/card/1"
    assert "left_out" not in plain, "older versions know no such key"
    assert second.format == "salus/card/2"
    for card in (first, second):
        assert ModelCard.model_validate_json(card.model_dump_json()) == card
    with pytest.raises(ValidationError, match="second format"):
        ModelCard.model_validate(second.model_dump() | {"format": "salus/card/1"})


def test_the_report_lists_them_and_escapes_their_names(tmp_path: Path) -> None:
    job, path = tiny_job(), tmp_path / "report.html"
    write_report(path, job, "tiny-0001", RECORDS, EVENTS, privacy_card(job, None, NAMES), left_out=found())
    text = path.read_text()
    assert "Sites that were not in every round" in text
    assert "Site &lt;b&gt;B&lt;/b&gt;" in text
    assert "left aside for a while" in text
    assert "2 of 3" in text
    write_report(path, job, "tiny-0001", RECORDS, [], privacy_card(job, None, NAMES))
    assert "not in every round" not in path.read_text()
