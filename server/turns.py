"""Which job a site works for: one attempt at a time, in the order in which the attempts asked.

A site keeps one open session, and answers one message at a time. So an attempt begins when all of its sites are free, and
holds each of them until it needs no more of it. A site that still works on a request of an earlier attempt, which nobody waits
for any more, is not free either, see `late`. An attempt that waits keeps its place: a later one never overtakes it at a
site, so nobody waits for ever, and no two attempts wait for each other.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from salus.common.clock import Clock, SystemClock
from salus.common.progress import Seen, nobody
from salus.server.late import LateWork

LATE_S = 300.0  # without progress
POLL_S = 0.2  # how often a waiting job looks whether it was cancelled


@dataclass(eq=False)
class Turn:
    """One attempt's sites; those that it has released are free for others.

    Args:
        job_id: job of the attempt.
        sites: the sites that it holds or waits for.
    """

    job_id: str
    sites: set[int]
    changed: threading.Condition = field(repr=False)

    def release(self, sites: Collection[int]) -> None:
        """Free these sites; the attempt asks them nothing more."""
        with self.changed:
            self.sites -= set(sites)
            self.changed.notify_all()

    def keep(self, sites: Collection[int]) -> None:
        """Free all other sites."""
        self.release(self.sites - set(sites))


class Turns:
    """The turns of all jobs of one coordinator; callable from any thread.

    Args:
        progress: returns what each site last reported about its work, by site id.
    """

    def __init__(self, progress: Callable[[], Mapping[int, Seen]] = nobody, clock: Clock | None = None) -> None:
        self._progress, self._clock = progress, clock or SystemClock()
        self._changed = threading.Condition()
        self._turns: list[Turn] = []  # in the order in which they asked

    @contextmanager
    def hold(
        self,
        job_id: str,
        sites: Collection[int],
        cancelled: Callable[[], bool] = lambda: False,
        tell: Callable[[dict[int, str]], None] = lambda busy: None,
        late_s: float = LATE_S,
    ) -> Iterator[Turn]:
        """Wait until no earlier turn has any of these sites and none is busy with late work, then hold them until the block ends.

        Args:
            cancelled: called while waiting; when it returns True, the block is entered at once, with sites that may be busy.
            tell: called once if the turn has to wait for others, and once if for late work, with the job that has each busy
                site; empty for late work.
            late_s: a site is waited for no longer when its late work has not got on for this many seconds.
        """
        turn = Turn(job_id, set(sites), self._changed)
        with self._changed:
            self._turns.append(turn)
        try:
            if busy := self._before(turn):
                tell(busy)
            with self._changed:
                while self._before(turn) and not cancelled():
                    self._changed.wait(POLL_S)
            self._wait_for_late_work(turn, cancelled, tell, late_s)
            yield turn
        finally:
            with self._changed:
                self._turns.remove(turn)
                self._changed.notify_all()

    def _wait_for_late_work(
        self, turn: Turn, cancelled: Callable[[], bool], tell: Callable[[dict[int, str]], None], late_s: float
    ) -> None:
        late, told = LateWork(self._progress, self._clock, late_s), False
        while (busy := late.of(turn.sites)) and not cancelled():
            if not told:
                told = True
                tell(dict.fromkeys(busy, ""))
            self._clock.sleep(POLL_S)

    @contextmanager
    def hold_free(self, job_id: str, sites: Collection[int]) -> Iterator[Turn]:
        """Hold those of these sites that no turn has now, without waiting."""
        with self._changed:
            turn = Turn(job_id, set(sites) - self.busy().keys(), self._changed)
            self._turns.append(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._turns.remove(turn)
                self._changed.notify_all()

    def busy(self) -> dict[int, str]:
        """Return the job that has each site, or is the first to wait for it."""
        with self._changed:
            return {site: turn.job_id for turn in reversed(self._turns) for site in turn.sites}

    def _before(self, mine: Turn) -> dict[int, str]:
        """Return which of a turn's sites earlier turns have, and for which job."""
        with self._changed:
            earlier = self._turns[: self._turns.index(mine)]
            return {site: turn.job_id for turn in reversed(earlier) for site in turn.sites & mine.sites}
