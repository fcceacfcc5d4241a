"""A worker whose site is a few lines: everything of `salus.client.executors.worker` but the imports of training.

What it does is in the blob of a request: die, hang, fail, report, or the bytes that are its answer.
"""

import os
import signal
import sys
import time
from pathlib import Path

from salus.client.executors.worker import main
from salus.common.errors import LedgerError
from salus.common.events import EventSink
from salus.common.packets import Reply, Request
from salus.common.progress import Reporter


class LightSite:
    """Notes what it has seen in the folder, before it does anything else."""

    def __init__(self, folder: Path, events: EventSink, reporter: Reporter) -> None:
        if (folder / "broken").exists():
            raise LedgerError("The ledger is not valid.", remedy="Restore it.")
        self._folder, self._events, self._reporter = folder, events, reporter
        self.session_open = False
        self._count("starts")

    def handle(self, request: Request, blob: bytes) -> tuple[Reply, bytes]:
        self._count("requests")
        if blob == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if blob == b"leave":
            sys.exit(3)
        if blob == b"hang":
            self._count("hangs")
            time.sleep(3600)
        if blob == b"fill":
            bytearray(2 * 2**30)
        self.session_open = blob == b"open"
        if blob == b"report":
            self._reporter.at("training", 0.25)
            self._events.emit("trained", job=request.job_id, round=request.round)
        return Reply(kind="ok", site=1), blob * 2

    def troubles(self) -> list[object]:
        return []

    def recheck(self) -> None:
        self._count("looks")

    def _count(self, what: str) -> None:
        with (self._folder / what).open("a") as file:
            file.write("x")


if __name__ == "__main__":
    main(sys.argv[1:], LightSite)  # type: ignore[arg-type]
