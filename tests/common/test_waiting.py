"""A site's hours, as the coordinator reads them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from salus.common.clock import ManualClock
from salus.common.errors import OutsideHours, describe
from salus.common.waiting import wait_s
from salus.server.patience import LONGEST_SAID_S, Patience

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ZONE = timezone(timedelta(hours=1))


def refusal(minutes: float) -> str:
    return describe(OutsideHours((NOW + timedelta(minutes=minutes)).astimezone(ZONE), NOW))


@pytest.mark.parametrize("minutes", [1, 480, 3 * 1440])
def test_what_a_site_says_is_understood(minutes: int) -> None:
    assert wait_s(["something else", refusal(minutes), refusal(2 * minutes)], NOW) == 60 * minutes


@pytest.mark.parametrize(
    "text",
    [
        "", refusal(-5), "waits until 20:00 of its local time (2026-13-99T99:99:99+0000)",
        "waits until 20:00 of its local time (9999-12-31T23:59:59-9999)", "waits until 20:00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_no_wait(text: str) -> None:
    assert wait_s([text], NOW) == 0.0


def test_nobody_is_believed_for_more_than_an_hour_or_beyond_the_rounds_own_patience() -> None:
    patience = Patience(ManualClock(NOW), limit_s=86_400.0)
    assert patience.at_hours(5.0, [refusal(10)]) == 600.0
    assert patience.at_hours(5.0, [refusal(0.05)]) == 5.0
    assert patience.at_hours(5.0, ["The disk is full."]) == 5.0
    assert patience.at_hours(5.0, [refusal(10_000)]) == LONGEST_SAID_S
    short = Patience(ManualClock(NOW), limit_s=100.0)
    short.begin()
    assert short.at_hours(5.0, [refusal(10_000)]) == pytest.approx(100.0, abs=0.01)
