"""Events as immutable data: one per line in a log, and the same objects for progress bars and reports.

Events never contain a secret, a patient's value or an absolute path; fields are plain values chosen by the code that emits them.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from salus.common.canonical import canonical_json
from salus.common.clock import Clock, SystemClock
from salus.common.files import OpenLines, append_line, drop_half_line
from salus.common.segments import numbered_lines, rotate

Value = str | int | float | bool | None | list[str] | list[int] | Mapping[str, object]  # of a mapping: plain JSON
UNWRITABLE = "The event holds something that the log cannot."


@dataclass(frozen=True)
class Event:
    """One event."""

    at: datetime
    kind: str
    fields: Mapping[str, Value]

    def to_json(self) -> bytes:
        """Return one line of the log, without the line end; a value that JSON cannot hold costs the event its fields."""
        head = {"at": self.at.isoformat(), "kind": self.kind}
        try:
            return canonical_json({**self.fields, **head})
        except ValueError:  # not a finite number, or a name of a file that is no text
            return canonical_json({**head, "text": UNWRITABLE})


class EventSink(Protocol):
    """Receives events."""

    def emit(self, kind: str, **fields: Value) -> None:
        """Record an event with the current time."""


class EventLog:
    """Writes events to a file (one JSON object per line) and passes them to listeners; a line is whole or absent.

    Args:
        rotates: begin a new file when it is full, and delete the oldest ones, see `segments`; for a daemon, which keeps the file
            open. Other logs are opened for each line, because a simulation may have thousands.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        listeners: tuple[Callable[[Event], None], ...] = (),
        clock: Clock | None = None,
        rotates: bool = False,
    ) -> None:
        self._path = path
        self._lines = OpenLines(path) if path is not None and rotates else None
        self._listeners = listeners
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        if path is not None:
            with contextlib.suppress(OSError):
                drop_half_line(path)

    def emit(self, kind: str, **fields: Value) -> None:
        """Record an event. A full disk does not stop a round: the listeners still receive the event."""
        event = Event(self._clock.now(), kind, fields)
        with self._lock:
            if self._path is not None:
                try:
                    line = event.to_json()
                    if self._lines is None:
                        append_line(self._path, line)
                    else:
                        rotate(self._path, len(line) + 1)
                        self._lines.append(line)
                except OSError as problem:
                    with contextlib.suppress(OSError):  # standard error may be a file on the same disk
                        os.write(2, f"salus: cannot write the event log: {problem.strerror}\n".encode())
        for listener in self._listeners:
            listener(event)


def read_events(path: Path) -> list[Event]:
    """Read an event log with its older files; lines that are no event are skipped. Empty if there is none."""
    return [event for _, event in numbered_events(path)]


def numbered_events(path: Path) -> Iterator[tuple[int, Event]]:
    """Yield the events of a log with their numbers, which stay the same when older ones are deleted."""
    for number, line in numbered_lines(path):
        try:
            fields = json.loads(line)
            yield number, Event(datetime.fromisoformat(fields.pop("at")), fields.pop("kind"), fields)
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
