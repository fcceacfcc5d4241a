from datetime import timedelta

import pytest
from tests.common.test_roster import NOW, make

from salus.common.clock import ManualClock
from salus.common.errors import RosterError
from salus.common.expiry import RosterWatch


def test_a_daemon_is_warned_a_month_before_once_a_day_and_ends_with_its_roster() -> None:
    roster = make()[0].model_copy(update={"valid_until": NOW + timedelta(days=60)})
    clock = ManualClock(NOW)
    told: list[str] = []
    watch = RosterWatch(lambda: roster, clock, lambda kind, text: told.append(f"{kind}: {text}"))
    for _ in range(29 * 24):
        clock.sleep(3600)
        assert watch.valid()
    assert told == []
    for _ in range(48):
        clock.sleep(3600)
        watch.check()
    assert 1 <= len(told) <= 2
    assert all(line.startswith("roster-ends: ") and "by themselves" in line for line in told)
    told.clear()
    clock.sleep(60 * 86_400)
    for _ in range(3):
        assert not watch.valid()
        with pytest.raises(RosterError, match="ask the consortium for a new kit"):
            watch.check()
    assert len(told) == 1
    assert told[0].startswith("roster-ended: ")
    clock.sleep(86_400)
    watch.valid()
    assert len(told) == 2
