"""What daemons print: lines for people, or JSON for a collector of logs.

JSON has the fields of the allow-list (`common/allowed.py`) only, and no text of any message: it is meant to leave the machine.
The log with everything is ``events.jsonl`` in the member's folder, which stays there.
"""

import json
import os
import re
from collections.abc import Callable
from typing import Literal

from salus.common.allowed import reduced
from salus.common.events import Event

LogFormat = Literal["text", "json"]
WARNINGS = frozenset((
    "disconnected", "outdated", "refused", "abandoned", "left-out", "not-asked", "roster-ends", "protocol-mismatch",
    "clock-differs",
))  # fmt: skip
ERRORS = frozenset(
    ("unexpected", "storage-failed", "roster-ended", "data-trouble", "no-report", "contributed-nothing", "worker-ended")
)
JOB = re.compile(r"[a-z0-9][a-z0-9-]{0,99}-[0-9]{4,6}")  # as the coordinator makes it, public to all members


def json_line(event: Event, role: Literal["site", "coordinator"]) -> bytes:
    """Return an event as one line of JSON, with what may leave this machine only."""
    kept: dict[str, object] = {"role": role, "level": level_of(event.kind), **reduced(event)}
    job, site = event.fields.get("job"), event.fields.get("site")
    if isinstance(job, str) and JOB.fullmatch(job):
        kept["job"] = job
    if isinstance(site, int) and not isinstance(site, bool) and 0 < site < 10**6:
        kept["site"] = site  # a number of the roster
    return json.dumps(kept, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def level_of(kind: str) -> str:
    """Return the severity of a kind of event."""
    return "error" if kind in ERRORS else "warning" if kind in WARNINGS else "info"


def json_log(role: Literal["site", "coordinator"]) -> Callable[[Event], None]:
    """Return a listener that writes events to standard output as JSON; a console that cannot be written is ignored."""

    def write(event: Event) -> None:
        try:
            os.write(1, json_line(event, role))  # one call: lines of several threads do not mix
        except OSError:
            return

    return write
