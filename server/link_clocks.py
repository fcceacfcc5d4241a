"""Sites that are refused because their clock and the coordinator's differ: the coordinator's operator is told.

Part of the link (`server/link.py`). Only a request that is validly signed at its own time counts: nobody else can accuse a site.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

from salus.common.clock import Clock
from salus.common.link_signature import ahead_s
from salus.server.link_members import Member

TELL_EVERY_S = 3600.0  # of one site


class WrongClocks:
    """Tells about each site whose clock differs, once an hour.

    Args:
        tell: called with the site's number and a sentence.
    """

    def __init__(self, clock: Clock, tell: Callable[[int, str], None]) -> None:
        self._clock, self._tell = clock, tell
        self._told_s: dict[int, float] = {}

    def look(self, member: Member, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Look at a request of a member that was refused."""
        now_s, last_s = self._clock.monotonic_s(), self._told_s.get(member.site)
        if last_s is not None and now_s - last_s < TELL_EVERY_S:
            return
        ahead = ahead_s(member.key, method, path, headers, self._clock.now())
        if ahead is not None:
            self._told_s[member.site] = now_s
            self._tell(member.site, sentence(member.site, ahead))


def sentence(site: int, ahead: float) -> str:
    """Return what the operator reads.

    Args:
        ahead: seconds by which the site's clock is ahead of this machine's.
    """
    by, side = timedelta(seconds=round(abs(ahead))), "ahead of" if ahead > 0 else "behind"
    return (
        f"The clock of site {site} is {by} {side} this machine's, "
        "so its requests are refused. Set the wrong one right, with NTP; if this is said of every site, it is this machine's."
    )
