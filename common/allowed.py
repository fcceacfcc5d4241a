"""What may leave a machine about its events: an allow-list. What is not on it does not leave, whatever it is.

Used for support files, JSON logs and metrics. The log of events in the member's own folder has everything. A new kind or
field of events is left out of all three until it is listed here.
"""

import builtins
import functools
import re
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path

from salus.common import errors
from salus.common.events import Event

OTHER = "other"
KINDS = frozenset((
    "abandoned", "answered", "attempt", "clock-differs", "connected", "connections-refused", "contributed-nothing", "data-mended",
    "data-trouble", "disconnected", "disk", "evaluated", "failed", "predicted", "repeated", "sent", "canary", "canary-failed",
    "job-aborted", "not-told", "job-accepted", "job-ended", "left-out", "listening", "measured",
    "no-data", "no-report", "not-asked", "not-checked", "not-evaluated", "not-measured", "outdated",
    "protocol-mismatch", "refused", "reported", "reserved", "resumed", "roster-ended", "roster-ends", "roster-fetched",
    "roster-installed", "roster-not-taken", "roster-refused", "round", "started", "stopped",
    "storage-failed", "storage-restored", "trained", "unexpected",
    "waiting", "waiting-for-turn", "worker-ended", "working",
))  # fmt: skip
LARGEST = 10**12
NUMBERS = frozenset(
    ("round", "rounds", "of", "attempt", "needed", "port", "theirs", "ours", "percent", "seconds", "serial")
)
COUNTED = frozenset(("sites", "online"))  # lists of roster numbers, of which only the length leaves
STATUSES = frozenset(("finished", "failed", "cancelled", "running", "waiting", "paused", "aborted"))
PLACE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*\.py):([0-9]{1,6})")
ERRORS = frozenset(
    name
    for module in (builtins, errors)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, BaseException)
)
PACKAGE = Path(__file__).resolve().parents[1]


def reduced(event: Event) -> dict[str, str | int | float | list[str]]:
    """Return what may leave of an event: time, kind, and fields that are on the list and have the listed form."""
    kept: dict[str, str | int | float | list[str]] = {
        "at": event.at.astimezone(UTC).isoformat(timespec="seconds"),
        "kind": event.kind if _one_of(event.kind, KINDS) else OTHER,
    }
    for name, value in sorted(event.fields.items()):
        if name in NUMBERS and _number(value):
            kept[name] = value  # type: ignore[assignment]  # a number, see above
        elif name in COUNTED and isinstance(value, list | tuple):
            kept[f"{name}_count"] = len(value)
        elif name == "status" and _one_of(value, STATUSES):
            kept[name] = str(value)
        elif name == "error" and isinstance(value, str):
            kept[name] = value if value in ERRORS else OTHER
        elif name in ("where", "place") and isinstance(value, str):
            kept["where"] = places(value)
    return kept


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST  # not for NaN


def _one_of(value: object, words: frozenset[str]) -> bool:
    return isinstance(value, str) and value in words


def places(trace: str) -> list[str]:
    """Return the files and lines of a traceback as `errors.where` writes it; a file that is not of Salus becomes ``other``."""
    found = []
    for part in trace.split(" > ")[:8]:
        match = PLACE.fullmatch(part)
        found.append(part if match and match[1] in own_files() else OTHER)
    return found


@functools.cache
def own_files() -> frozenset[str]:
    """Return the names of the files of Salus."""
    names = ("client", "common", "privacy", "server", "simulations")
    return frozenset(path.name for name in names for path in (PACKAGE / name).rglob("*.py"))


def fixed_numbers(values: Mapping[str, object], words: Mapping[str, frozenset[str]]) -> dict[str, object]:
    """Return of measured values the numbers, and text that is one of the words listed for its name."""
    kept: dict[str, object] = {}
    for name, value in values.items():
        if value is None or isinstance(value, bool) or _number(value) or _one_of(value, words.get(name, frozenset())):
            kept[name] = value
    return kept
