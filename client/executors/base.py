"""What the daemon uses: an executor takes a request to the worker, which it starts if need be, and brings back the reply.

Whatever happens to the worker, `ask` returns a reply or raises an error with a sentence for the coordinator; the next request
starts a new worker.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from salus.client.executors.channels import Channel, Ended, NotTaken
from salus.client.executors.frames import (
    EVENT,
    FAILED,
    LOOK,
    PROGRESS,
    READY,
    REPLY,
    REQUEST,
    STATE,
    Frame,
    damaged,
)
from salus.client.executors.stopped import StoppedJobs
from salus.common.clock import Clock
from salus.common.errors import ConfigError, Refused, WireError
from salus.common.progress import STEPS, Step

WAIT_S = 0.5  # between two looks at whether the operator wants the job stopped
UNUSED_S = 60.0  # a worker that was started only to see whether it can start
SESSION_S = 12 * 3600.0  # a protected sum is given up when the coordinator has not asked for so long
START_S = 600.0  # for the imports and a first look at troubled data, on this machine
START_TRIES = 3
LOOK_S = 600.0  # for a look at troubled data
END_S = 2.0  # to learn how a worker has ended
RECHECK_S = 300.0  # between two starts of a worker only to see whether data can be read again


class Lost(Refused):
    """The worker has ended during a request."""


class NotStarted(Refused):
    """The worker cannot start.

    Args:
        text: for the operator.
        exit_code: of the error in the worker.
        silent: whether it has ended without saying why, as when the machine has no memory for a moment.
    """

    def __init__(self, text: str, exit_code: int = ConfigError.exit_code, *, silent: bool = False) -> None:
        super().__init__("This site cannot work now.", remedy="Its operator sees the reason in the site's log.")
        self.text, self.exit_code, self.silent = text, exit_code, silent


class Run(Protocol):
    """A worker that was started."""

    @property
    def channel(self) -> Channel:
        """The way to it."""

    @property
    def process_id(self) -> int | None:
        """Its process id on this machine; None if it runs elsewhere."""

    def ended(self) -> str:
        """Return why it does not run any more, as a sentence for the operator; empty while it runs."""

    def kill(self) -> None:
        """End it at once, wherever it is; does nothing if it has ended."""


class Backend(Protocol):
    """A place for workers.

    Attributes:
        local: whether a worker may be started just to see whether it can.
        start_s: longest time from the start to its first frame, in seconds.
    """

    local: bool
    start_s: float

    def start(self) -> Run:
        """Start a worker; raises NotStarted."""


@dataclass(frozen=True)
class Listener:
    """What the executor tells the daemon."""

    event: Callable[[str, dict[str, Any]], None]
    progress: Callable[[Step, int], None]
    troubles: Callable[[list[str]], None]


class Executor:
    """One worker at a time, for one site; used by one thread.

    Args:
        idle_minutes: without a request, until it ends.
        stuck_minutes: without any sign of it in the middle of a request, until it is ended; 0: never.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        idle_minutes: float,
        clock: Clock,
        listener: Listener,
        stuck_minutes: float = 0.0,
    ) -> None:
        self._backend, self._idle_s, self._clock, self._listener = backend, 60 * idle_minutes, clock, listener
        self._stuck_minutes = stuck_minutes
        self._stopped = StoppedJobs(folder)
        self._run: Run | None = None
        self._since = clock.monotonic_s()
        self._used = self._open = self._troubled = False

    @property
    def process_id(self) -> int | None:
        """The worker's process id, if there is one on this machine."""
        return None if self._run is None else self._run.process_id

    @property
    def working(self) -> bool:
        """Whether there is a worker."""
        return self._run is not None

    def try_start(self) -> None:
        """Start a worker, where that costs a few seconds only, to find out what would prevent it; raises NotStarted.

        One that ends in silence is started again, `START_TRIES` times in all.
        """
        for left in reversed(range(START_TRIES if self._backend.local else 0)):
            try:
                self._started()
                return
            except NotStarted as problem:
                if not (problem.silent and left):
                    raise
                self._listener.event("worker-ended", {"text": problem.text})

    def ask(self, job: str, header: bytes, blob: bytes) -> tuple[bytes, bytes]:
        """Return header and blob of the reply to a request.

        Args:
            job: id of the request's job; empty if it has none.

        Raises:
            Refused: the job was stopped, the worker cannot start, or it has ended without a reply or was ended as stuck.
        """
        self._stopped.check(job)
        run = self._started()
        self._used, self._since = True, self._clock.monotonic_s()
        try:
            self._nothing_left(run)
            run.channel.send(Frame(REQUEST, header, blob))
            reply = self._wait(run, REPLY, job)
        except NotTaken:
            raise self._stuck(job) from None
        except (Ended, WireError):
            raise self._lost(run, job) from None
        except BaseException:  # its reply would be taken for that to the next request
            self.close()
            raise
        finally:
            self._since = self._clock.monotonic_s()
        return reply.header, reply.body

    def look(self) -> None:
        """Let the worker look whether its data can be read again, or end it if nobody has asked for long; for idle moments."""
        run, idle = self._run, self._clock.monotonic_s() - self._since
        if run is None:
            if self._troubled and self._backend.local and idle >= RECHECK_S:
                self._started()
        elif run.ended() or idle >= self._patience():
            self.close()
        else:
            try:
                run.channel.send(Frame(LOOK))
                self._wait(run, STATE, most_s=LOOK_S)  # nobody could stop a look that never ends
            except (Ended, WireError):
                self._lost(run, "")
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the worker, if there is one; all that must survive is on disk."""
        run, self._run = self._run, None
        self._used = self._open = False
        self._since = self._clock.monotonic_s()
        if run is not None:
            run.kill()

    def _patience(self) -> float:
        if self._open:
            return max(self._idle_s, SESSION_S)
        return self._idle_s if self._used else min(self._idle_s, UNUSED_S)

    def _started(self) -> Run:
        if self._run is not None and self._run.ended():
            self.close()
        if self._run is None:
            self._run = run = self._backend.start()
            run.channel.limit(60 * self._stuck_minutes)
            self._since = self._clock.monotonic_s()
            try:
                self._wait(run, READY, most_s=self._backend.start_s)
            except (Ended, WireError):
                text = _end_of(run) or "It sent something unexpected."
                self.close()
                raise NotStarted(f"The site's process for work cannot start. {text}", silent=True) from None
        return self._run

    def _nothing_left(self, run: Run) -> None:
        """Handle frames that came since the last reply; raises WireError for one reply too many."""
        while (frame := run.channel.receive(0.0)) is not None:
            if frame.kind == REPLY:
                raise damaged()
            self._take(frame)

    def _wait(self, run: Run, kind: bytes, job: str = "", most_s: float = math.inf) -> Frame:
        """Handle frames until one of this kind comes; raises Ended."""
        began, heard_s = time.monotonic(), self._clock.monotonic_s()
        while True:
            ended = run.ended()  # before the look for a frame, so that its last ones are read
            frame = run.channel.receive(0.0 if ended else WAIT_S)
            if frame is None:
                if ended:
                    raise Ended
                if time.monotonic() - began > most_s:
                    raise self._failed(f"The site's process for work did not answer within {most_s / 60:.0f} minutes.")
                self._stop_if_asked(job)
                if math.isinf(most_s):  # a cluster's queue has a limit of its own
                    self._end_if_stuck(job, heard_s)
            else:
                heard_s = self._clock.monotonic_s()
                self._take(frame)
                if frame.kind == kind:
                    return frame

    def _stop_if_asked(self, job: str) -> None:
        try:
            self._stopped.check(job)
        except Refused:
            self.close()
            raise

    def _end_if_stuck(self, job: str, heard_s: float) -> None:
        if self._stuck_minutes and self._clock.monotonic_s() - heard_s >= 60 * self._stuck_minutes:
            raise self._stuck(job)

    def _stuck(self, job: str) -> Lost:
        minutes = self._stuck_minutes
        self.close()
        text = (
            f"It gave no sign for {minutes:g} minutes while it worked, and was ended: see stuck_minutes in site.toml."
        )
        self._listener.event("worker-ended", {"job": job, "text": text})
        return Lost(
            f"This site's process for work gave no sign for {minutes:g} minutes and was ended.",
            remedy="The next request starts another one; the site's operator sees more in its log.",
        )

    def _take(self, frame: Frame) -> None:
        if frame.kind == FAILED:
            values = frame.values()
            raise self._failed(str(values.get("text")), values.get("exit_code"))
        if frame.kind == EVENT:
            values = frame.values()
            fields = values.get("fields")
            if isinstance(fields, dict) and not {"kind", "self"} & fields.keys():
                self._listener.event(str(values.get("kind")), fields)
        elif frame.kind == PROGRESS:
            values = frame.values()
            step, percent = values.get("step"), values.get("percent")
            if isinstance(step, str) and step in STEPS and isinstance(percent, int) and 0 <= percent <= 100:
                self._listener.progress(step, percent)
        elif frame.kind == STATE:
            values = frame.values()
            self._open = values.get("open") is True
            lines = values.get("troubles")
            if not isinstance(lines, list):
                raise damaged()
            troubles = [str(line) for line in lines]
            self._troubled = bool(troubles)
            self._listener.troubles(troubles)

    def _failed(self, text: str, exit_code: object = None) -> NotStarted:
        self.close()
        return NotStarted(text, exit_code if isinstance(exit_code, int) else ConfigError.exit_code)

    def _lost(self, run: Run, job: str) -> Lost:
        reason = _end_of(run) or "It did not answer as expected."
        self.close()
        self._listener.event("worker-ended", {"job": job, "text": reason})
        return Lost(
            "This site's process for work ended before it could answer.", remedy="The next request starts another one."
        )


def _end_of(run: Run) -> str:
    """Return how a worker has ended, whose connection ends before itself; empty if it still runs."""
    deadline = time.monotonic() + END_S
    while not run.ended() and time.monotonic() < deadline:
        time.sleep(0.02)
    return run.ended()
