"""Answers `salus doctor` at a site; part of the link. Bounded for each site, because an answer may be larger than its request."""

from collections import deque
from collections.abc import Callable
from datetime import datetime

from salus import __version__
from salus.common.errors import WireError
from salus.common.probe import ProbeAnswer, pack_probe, read_probe_request

MOST_BYTES = 256 * 2**20  # for one node key in a period, both directions together
MOST_PROBES = 600
PERIOD_S = 3600.0
TOO_MANY, NOT_UNDERSTOOD = 429, 400


class Probes:
    """Answers the probes of all sites.

    Args:
        roster: returns the serial of the coordinator's newest roster.
    """

    def __init__(
        self, now: Callable[[], datetime], monotonic_s: Callable[[], float], roster: Callable[[], int]
    ) -> None:
        self._now, self._monotonic_s, self._roster = now, monotonic_s, roster
        self._spent: dict[bytes, deque[tuple[float, int]]] = {}

    def answer(self, key: bytes, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a signed probe.

        Args:
            key: the node key that signed it, which is on the roster.
        """
        try:
            wanted = read_probe_request(body).answer_bytes
        except WireError:
            return NOT_UNDERSTOOD, b""
        if not self._charge(key, len(body) + wanted):
            return TOO_MANY, b""
        answer = ProbeAnswer(time=self._now().isoformat(), version=__version__, roster=self._roster())
        return 200, pack_probe(answer, wanted)

    def _charge(self, key: bytes, size: int) -> bool:
        now = self._monotonic_s()
        spent = self._spent.setdefault(key, deque())
        while spent and now - spent[0][0] > PERIOD_S:
            spent.popleft()
        if len(spent) >= MOST_PROBES or sum(each for _, each in spent) + size > MOST_BYTES:
            return False
        spent.append((now, size))
        return True
