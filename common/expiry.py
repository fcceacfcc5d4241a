"""The roster's expiry while a daemon runs: a warning well before the end, and no participation after it."""

from collections.abc import Callable
from datetime import date

from salus.common.clock import Clock
from salus.common.errors import RosterError
from salus.common.roster import Roster

ENDS, ENDED = "roster-ends", "roster-ended"


class RosterWatch:
    """Checks the dates of the newest roster repeatedly.

    Args:
        roster: returns the newest roster, which may be replaced while the daemon runs.
        tell: called with the event kind and the remedy, at most once a day for each kind.
    """

    def __init__(self, roster: Callable[[], Roster], clock: Clock, tell: Callable[[str, str], None]) -> None:
        self._roster, self._clock, self._tell = roster, clock, tell
        self._told: tuple[str, date] | None = None

    def valid(self) -> bool:
        """Return whether this member may take part now; tell its operator if the roster has expired or soon will."""
        now, roster = self._clock.now(), self._roster()
        try:
            roster.check_dates(now)
            kind, text = ENDS, roster.warning(now)
        except RosterError as problem:
            kind, text = ENDED, str(problem)
        if text and self._told != (kind, now.date()):
            self._told = kind, now.date()
            self._tell(kind, text)
        return kind == ENDS

    def check(self) -> None:
        """Raise RosterError unless this member may take part now."""
        if not self.valid():
            self._roster().check_dates(self._clock.now())
