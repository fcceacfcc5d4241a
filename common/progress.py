"""What a site is doing now: a step from a fixed vocabulary and a percentage.

The pace of percentages can tell how many batches a site has; a site's policy (`share_progress`) can keep them at 0.

The site sends it with its heartbeat while it works on a request (`client/link.py`); the coordinator keeps the newest of each
site, with the time of arrival on its own clock (`server/link.py`). A coordinator can wait longer for a site that reports.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from salus.common.strict import Strict

Step = Literal[
    "waiting", "receiving", "checking", "loading", "training", "evaluating", "measuring", "protecting", "sending"
]
STEPS: tuple[Step, ...] = get_args(Step)
MAX_REQUEST = 64
REPEAT_S = 60.0
Report = Callable[[float], None]  # takes the share that is done, from 0 to 1
SILENT: Report = lambda done: None  # noqa: E731


class Progress(Strict):
    """What one site is doing.

    Args:
        request: Identifier of the coordinator's message that it works on; empty if none.
        step: What it does now.
        percent: Share of this step that is done.
    """

    request: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    step: Step = "waiting"
    percent: Annotated[int, Field(ge=0, le=100)] = 0


@dataclass(frozen=True)
class Seen:
    """A site's progress and when it arrived, in seconds of the coordinator's monotonic clock."""

    progress: Progress
    at_s: float


def nobody() -> Mapping[int, Seen]:
    """Return the progress of sites that report none, as in a simulation."""
    return {}


class Gains:
    """Which of the reports about one request show that the work gets on.

    Progress is a new step of the fixed vocabulary, or a larger whole percentage in a step; so who lies gains a bounded time.
    """

    def __init__(self) -> None:
        self._most: dict[str, int] = {}

    def new(self, said: Progress) -> bool:
        """Return whether a report shows more than all reports before it, and remember it."""
        if said.percent <= self._most.get(said.step, -1):
            return False
        self._most[said.step] = said.percent
        return True


class Reporter:
    """Where the code that works on a request says how far it is; may be used from any thread.

    Args:
        tell: called with each change of step or percentage, and with the same one again at most once in `REPEAT_S` while the
            work goes on; from the thread that reports it.
        now_s: a clock that never goes back, in seconds.
    """

    def __init__(
        self,
        tell: Callable[[Progress], None] = lambda progress: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._now_s, self._told_s = tell, now_s, float("-inf")
        self._lock = threading.Lock()
        self._current = Progress()

    @property
    def current(self) -> Progress:
        """What the site is doing now."""
        return self._current

    def begin(self, request: str) -> None:
        """Begin work on a request."""
        self._set(Progress(request=request, step="checking"))

    def at(self, step: Step, done: float = 0.0) -> None:
        """Report the step and the share of it that is done, from 0 to 1."""
        self._set(Progress(request=self._current.request, step=step, percent=int(100 * min(1.0, max(0.0, done)))))

    def goes_on(self) -> None:
        """Report that the work goes on, in between: a part of a percentage may take hours."""
        self._set(self._current)

    def end(self) -> None:
        """Report that no request is being worked on."""
        self._set(Progress())

    def _set(self, progress: Progress) -> None:
        now_s = self._now_s()
        with self._lock:
            told = progress != self._current or now_s - self._told_s >= REPEAT_S
            self._current = progress
            if told:
                self._told_s = now_s
        if told:
            self._tell(progress)
