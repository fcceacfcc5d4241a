"""Time as an argument, so that expiry, deadlines and back-off can be tested without waiting."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, UTC."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary start; never decreasing."""

    def sleep(self, seconds_s: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds_s: float) -> None:
        time.sleep(seconds_s)


class ManualClock:
    """A clock that moves only when told to; `sleep` moves it at once."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._elapsed_s

    def sleep(self, seconds_s: float) -> None:
        self._elapsed_s += seconds_s
        self._now += timedelta(seconds=seconds_s)
