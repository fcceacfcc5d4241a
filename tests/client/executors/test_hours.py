"""The hours of a site."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from salus.client.executors.hours import check_hours, opens
from salus.client.executors.settings import ExecutorSettings
from salus.common.errors import ConfigError, OutsideHours
from salus.common.strict import parse_toml

ZONE = timezone(timedelta(hours=1))


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, 27, hour, minute, 30, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("hours", "now", "begins"),
    [
        ((), at(12), None),
        (("20:00-06:00",), at(12), at(20).replace(second=0)),
        (("20:00-06:00",), at(20), None),
        (("20:00-06:00",), at(5, 59), None),
        (("20:00-06:00",), at(6), at(20).replace(second=0)),
        (("01:00-02:00",), at(23), datetime(2026, 11, 28, 1, tzinfo=ZONE)),
        (("08:00-09:00", "12:00-13:00"), at(10), at(12).replace(second=0)),
        (("08:00-09:00", "12:00-13:00"), at(12, 30), None),
    ],
)
def test_when_a_site_works_again(hours: tuple[str, ...], now: datetime, begins: datetime | None) -> None:
    assert opens(hours, now) == begins


def test_only_what_begins_work_waits_and_the_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    local = datetime(2026, 11, 27, 12, tzinfo=UTC).astimezone()
    begins = local + timedelta(hours=2)
    hours = [f"{begins:%H:%M}-{begins + timedelta(hours=1):%H:%M}"]
    for kind in ("answer", "check", "start", "hello"):
        check_hours(hours, kind, local)
    for kind in ("train", "evaluate", "measure"):
        with pytest.raises(OutsideHours, match=f"waits until {begins:%H:%M} of its local time") as refused:
            check_hours(hours, kind, local.astimezone(UTC))
        assert f"({begins:%Y-%m-%dT%H:%M:%S%z})" in str(refused.value)
    check_hours(hours, "train", begins)


@pytest.mark.parametrize(
    "text",
    ['hours = ["24:00-06:00"]', 'hours = ["8-9"]', 'hours = ["08:00-08:00"]', "memory_mb = 1", "stuck_minutes = 1.0"],
)
def test_settings_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_toml(ExecutorSettings, text, error=ConfigError, what="site file")
