"""Who still works on a request that nobody waits for any more: of an attempt that timed out, was abandoned or cancelled.

A site answers one message at a time, so the next request would only wait there, and its deadline would run meanwhile. So an
attempt begins when such work has ended, for as long as the site's own reports get on.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from salus.common.clock import Clock
from salus.common.progress import Gains, Seen


@dataclass
class _Work:
    request: str
    gains: Gains
    until_s: float


class LateWork:
    """The late work of an attempt's sites, from one moment on, when the attempt has asked them nothing yet.

    A site that lies gains a bounded time: only its first request counts, and of that only new progress, see `Gains`.

    Args:
        progress: returns what each site last reported, by site id.
        limit_s: a site without progress for this long is waited for no longer.
    """

    def __init__(self, progress: Callable[[], Mapping[int, Seen]], clock: Clock, limit_s: float) -> None:
        self._progress, self._clock, self._limit_s = progress, clock, limit_s
        self._work: dict[int, _Work | None] = {}

    def of(self, sites: Collection[int]) -> set[int]:
        """Return those of these sites that are busy with late work now."""
        now_s = self._clock.monotonic_s()
        said = self._progress()
        return {site for site in sites if self._busy(site, said.get(site), now_s)}

    def _busy(self, site: int, seen: Seen | None, now_s: float) -> bool:
        request = seen.progress.request if seen is not None else ""
        if site not in self._work and request:
            self._work[site] = _Work(request, Gains(), now_s + self._limit_s)
        work = self._work.get(site)
        if work is None or seen is None or request != work.request:
            self._work[site] = None  # at rest: whatever it says later is not late work of before
            return False
        if work.gains.new(seen.progress):
            work.until_s = now_s + self._limit_s
        return now_s < work.until_s
