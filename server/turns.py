"""Which job a site works for: one attempt at a time, in the order in which the attempts asked.

A site keeps one open session, and answers one message at a time. So an attempt begins when all of its sites are free, and
holds each of them until it needs no more of it. An attempt that waits keeps its place: a later one never overtakes it at a
site, so nobody waits for ever, and no two attempts wait for each other.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
    """The turns of all jobs of one coordinator; callable from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: list[Turn] = []  # in the order in which they asked

    @contextmanager
    def hold(
        self,
        job_id: str,
        sites: Collection[int],
        cancelled: Callable[[], bool] = lambda: False,
        tell: Callable[[dict[int, str]], None] = lambda busy: None,
    ) -> Iterator[Turn]:
        """Wait until no earlier turn has any of these sites, then hold them until the block ends.

        Args:
            cancelled: called while waiting; when it returns True, the block is entered at once, with sites that may be busy.
            tell: called once if the turn has to wait, with the job that has each busy site.
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
            yield turn
        finally:
            with self._changed:
                self._turns.remove(turn)
                self._changed.notify_all()

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
