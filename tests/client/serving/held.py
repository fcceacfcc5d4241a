"""A node in a process of its own that stops for ever at a chosen point, so that a test can kill it exactly there."""

import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.processes import FORKED, _daemon

POINTS = ("stored", "receiving", "received", "predicting", "predicted", "sending", "all-sent", "sent")


class HeldNode:
    """`salus serve start` with these words; `held` exists once it has reached its point.

    Args:
        point: one of `POINTS`; empty to run on. At ``receiving`` nothing holds it but its own quiet time.
    """

    def __init__(self, point: str, words: list[str], log: Path) -> None:
        ends, self._lifeline = FORKED.Pipe(duplex=False)
        self.held = log.with_name(f"held-{point}")
        self.process = FORKED.Process(target=_held, args=(point, words, log, self.held, ends), daemon=True)
        self.process.start()
        ends.close()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.join()


def _held(point: str, words: list[str], log: Path, mark: Path, lifeline: Connection) -> None:
    hold_at(point, lambda: _for_ever(mark))
    _daemon(words, log, lifeline)


def _for_ever(mark: Path) -> None:
    mark.touch()
    threading.Event().wait()


def hold_at(point: str, hold: Callable[[], None]) -> None:
    """Call `hold` when this process reaches a point."""
    from salus.client.serving import spool
    from salus.client.serving.studies import Studies
    from salus.client.serving.working import Worker

    change, tell, write = Studies.change, Worker._tell, spool.write_whole

    def changing(self: Studies, number: int, *before: str, **values: Any) -> bool:
        state = values.get("state")
        if (point, state) in (("received", "predicting"), ("predicted", "sending"), ("all-sent", "sent")):
            hold()
        done = change(self, number, *before, **values)
        if (point, state) == ("sent", "sent"):
            hold()
        return done

    def telling(self: Worker, done: int, of: int) -> None:
        if done == 1 and (point, type(self).__name__) in (("predicting", "Predictor"), ("sending", "Sender")):
            hold()
        tell(self, done, of)

    def writing(path: Path, data: bytes) -> None:
        write(path, data)
        if point == "stored":
            hold()

    Studies.change, Worker._tell, spool.write_whole = changing, telling, writing  # type: ignore[method-assign]
