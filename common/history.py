"""The events of a coordinator, by job: the newest in memory, older ones from its log."""

import threading
from collections import deque
from pathlib import Path

from salus.common.events import Event, numbered_events

IN_MEMORY = 20_000  # about 30 MB; a job of a thousand rounds has some ten thousand


class History:
    """All events that a log still has; also a listener of this log.

    Args:
        path: of the log.
        most: events in memory.
    """

    def __init__(self, path: Path, most: int = IN_MEMORY) -> None:
        self._path = path
        self._newest = deque(numbered_events(path), maxlen=most)
        self._next = self._newest[-1][0] + 1 if self._newest else 1
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Add an event."""
        with self._lock:
            self._newest.append((self._next, event))
            self._next += 1

    def of(self, job_id: str, after: int = 0) -> list[tuple[int, Event]]:
        """Return the events of a job with their numbers, from the one after number `after`."""
        with self._lock:
            newest = list(self._newest)
        first = newest[0][0] if newest else 1
        older = numbered_events(self._path) if after + 1 < first else iter(())
        return [
            (number, event)
            for number, event in [*((n, e) for n, e in older if n < first), *newest]
            if number > after and event.fields.get("job") == job_id
        ]
