"""The node as a whole: a listener, two workers, and what starts, ends and shows them."""

import contextlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.receiver import DimseOptions
from salus.client.serving.handling import EVENTS, failure, open_folder
from salus.client.serving.node import Node
from salus.client.serving.spool import Bounds, Spool
from salus.client.serving.studies import FAILED, OPEN, Studies
from salus.client.serving.working import Predicting, Predictor, Send, Sender, Worker
from salus.common.clock import Clock, SystemClock
from salus.common.errors import LinkError, StorageError, where
from salus.common.events import Event, EventLog
from salus.common.lock import FolderLock

LOOK_S = (
    0.2  # how often the workers look for a study; an event wakes nobody across processes, such as `salus serve retry`
)
PAUSE_S = 5.0  # after a table could not be written
GRACE_S = 10.0  # that a worker may take to end; everything is on disk


@dataclass(frozen=True)
class Serving:
    """All that a node needs.

    Args:
        folder: of the queue; created if absent.
        listening: None to receive nothing.
        keep: why received files are kept after their results were sent; empty to delete them.
    """

    folder: Path
    predicting: Predicting
    send: Send
    listening: DimseOptions | None
    bounds: Bounds = field(default_factory=Bounds)
    keep: str = ""


class ServeDaemon:
    """Serves until `stop` is called.

    Args:
        listener: called with each event.

    Attributes:
        port: at which it listens, once it does.
        finished: whether the workers have ended; if not, they are in the middle of something that is done again.
    """

    def __init__(
        self, serving: Serving, clock: Clock | None = None, listener: Callable[[Event], None] = lambda event: None
    ) -> None:
        self._serving, self._clock = serving, clock or SystemClock()
        self._events = EventLog(serving.folder / EVENTS, clock=self._clock, listeners=(listener,), rotates=True)
        self._stop = threading.Event()
        self.port = 0
        self.finished = True

    def stop(self) -> None:
        """End soon; what arrived is on disk."""
        self._stop.set()

    def run(self, *, once: bool = False) -> None:
        """Serve until stopped.

        Args:
            once: receive nothing, try every study once, and return.

        Raises:
            ConfigError: the folder is in use or holds something else, a port is taken, or files cannot be decoded in a sandbox.
            LinkError: with `once`, if the PACS did not take everything.
            DataError: with `once`, if a study failed.
            StorageError: the folder cannot be written to.
        """
        serving = self._serving
        open_folder(serving.folder, create=True)
        with ExitStack() as stack:
            stack.callback(FolderLock(serving.folder).close)
            studies = Studies(serving.folder, self._clock)
            # One process for what arrives and another for predictions, so that neither waits for the other.
            child = stack.enter_context(Isolated(layers=serving.predicting.decoding.layers))
            stack.callback(serving.predicting.reader.stop)
            spool = Spool(serving.folder, studies, serving.bounds, child, self._clock)
            spool.tidy()
            parts = (studies, spool, self._events, self._stop.is_set)
            workers = (Predictor(*parts, serving.predicting), Sender(*parts, serving.send, serving.keep))
            if once or serving.listening is None:
                self._once(studies, spool, workers)
            else:
                self._serve(serving.listening, spool, workers, stack)

    def _serve(self, options: DimseOptions, spool: Spool, workers: tuple[Worker, ...], stack: ExitStack) -> None:
        node = stack.enter_context(Node(options, spool.take))
        self.port = node.port
        self._events.emit("listening", title=options.title, port=node.port)
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        while not self._stop.wait(LOOK_S):
            with contextlib.suppress(StorageError):  # a full disk: nothing is lost, and it is tried again
                spool.settle(node.connected)
        for thread in threads:
            thread.join(GRACE_S)
        self.finished = not any(thread.is_alive() for thread in threads)
        self._events.emit("stopped")

    def _work(self, worker: Worker) -> None:
        while not self._stop.is_set():
            try:
                worked = worker.step()
            except (
                StorageError
            ) as problem:  # the table itself cannot be written: nothing is lost, and it is tried again
                self._events.emit("disk", text=str(problem))
                self._stop.wait(PAUSE_S)
                continue
            except Exception as problem:  # a worker that ends would leave a node that takes studies and does nothing
                self._events.emit("unexpected", error=type(problem).__name__, place=where(problem))
                self._stop.wait(PAUSE_S)
                continue
            if not worked:
                self._stop.wait(LOOK_S)

    def _once(self, studies: Studies, spool: Spool, workers: tuple[Worker, ...]) -> None:
        before = {study.id for study in studies.listed(FAILED, most=1_000_000)}
        spool.settle_all()
        for worker in workers:
            while not self._stop.is_set() and worker.step():
                pass
        failed = [study for study in studies.listed(FAILED) if study.id not in before]
        if failed:
            raise failure(failed)
        waiting = studies.listed(*OPEN)
        if waiting:
            raise LinkError(
                f"Studies that still wait: {len(waiting)}. {waiting[-1].detail}",
                remedy="Run the command again when the cause is gone.",
            )
