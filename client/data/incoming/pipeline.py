"""De-identification of many files by several children at once: small files in groups, large ones alone, results in order."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import Clean
from salus.client.data.incoming.files import Incoming
from salus.common.errors import UnreadableImage

GROUP_FILES, GROUP_BYTES = 16, 2**20  # in one exchange with a child; a larger file goes alone
AHEAD = 2  # groups that wait for each child
WAITING_BYTES = 2**28  # of all files that are read and not yet stored; one file may be larger
BATCH_FILES, BATCH_BYTES = 256, 2**26  # stored together
CHILDREN = 4  # at most; each may need 1 GB
Result = tuple[Incoming, Clean | UnreadableImage]


class Pipeline:
    """Passes files to children, each of which does one group at a time."""

    def __init__(self, children: Sequence[Isolated]) -> None:
        self._idle: SimpleQueue[Isolated] = SimpleQueue()
        for child in children:
            self._idle.put(child)
        self._count = len(children)
        self._group: list[Incoming] = []
        self._pending: deque[tuple[int, Future[list[Result]]]] = deque()
        self._done: list[Result] = []

    def batches(self, files: Iterable[Incoming]) -> Iterator[list[Result]]:
        """Yield every file with its clean object or the reason why there is none, in the order of the files.

        Guarantees: a file whose sender waits is yielded before the next one is asked for.

        Raises:
            ConfigError, DataError: the children cannot be started, or the source fails.
        """
        workers = ThreadPoolExecutor(self._count, thread_name_prefix="importing")
        try:
            for item in files:
                self._group.append(item)
                if item.prompt or len(self._group) >= GROUP_FILES or _size(self._group) >= GROUP_BYTES:
                    self._submit(workers)
                while self._pending and (item.prompt or self._full()):
                    self._collect()
                if self._done and (item.prompt or self._batch_is_full()):
                    yield self._taken()
            self._submit(workers)
            while self._pending:
                self._collect()
                if self._batch_is_full():
                    yield self._taken()
            if self._done:
                yield self._taken()
        finally:
            workers.shutdown(wait=True, cancel_futures=True)

    def _submit(self, workers: ThreadPoolExecutor) -> None:
        if self._group:
            group, self._group = self._group, []
            self._pending.append((_size(group), workers.submit(self._cleaned, group)))

    def _full(self) -> bool:
        waiting = sum(size for size, _ in self._pending)
        return len(self._pending) > AHEAD * self._count or waiting > WAITING_BYTES

    def _collect(self) -> None:
        self._done += self._pending.popleft()[1].result()

    def _batch_is_full(self) -> bool:
        size = sum(len(clean.data) for _, clean in self._done if isinstance(clean, Clean))
        return len(self._done) >= BATCH_FILES or size >= BATCH_BYTES

    def _taken(self) -> list[Result]:
        done, self._done = self._done, []
        return done

    def _cleaned(self, group: list[Incoming]) -> list[Result]:
        child = self._idle.get()
        try:
            files = [item.data for item in group if isinstance(item.data, bytes)]
            cleaned = iter(child.clean_many(files))
        finally:
            self._idle.put(child)
        return [(item, next(cleaned) if isinstance(item.data, bytes) else item.data) for item in group]


def _size(group: Sequence[Incoming]) -> int:
    return sum(len(item.data) for item in group if isinstance(item.data, bytes))


def children_at_once() -> int:
    """Return how many children are worth having: one for each core that this process may use."""
    return max(1, min(CHILDREN, len(os.sched_getaffinity(0))))


@contextlib.contextmanager
def started(make: Callable[[], Isolated]) -> Iterator[list[Isolated]]:
    """Give as many children as are worth having; the first is started now, and the others with their first file.

    Raises:
        ConfigError, DataError: as `Isolated`, before any file is read.
    """
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(make())]
        for _ in range(children_at_once() - 1):
            children.append(make())
            stack.callback(children[-1].stop)
        yield children
