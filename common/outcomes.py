"""Outcomes of patients that were followed: how long, and whether the event happened.

A label file writes them as statisticians do: ``538`` for an event on day 538, and ``538+`` for a patient who was followed for 538
days without one (censored).
"""

import math
import re
from typing import NamedTuple

CENSORED = "+"
WRITTEN = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?(?:[eE][+-]?\d{1,2})?)\s*(\+?)\s*")
NO_EVENT = frozenset({"0", "0.0", "no", "false", "alive", "censored"})
EVENT = frozenset({"1", "1.0", "yes", "true", "dead", "deceased"})


class Outcome(NamedTuple):
    """How long a patient was followed, in the unit of the data, and whether the event ended it."""

    time: float
    event: bool


def outcome_of(label: str) -> Outcome | None:
    """Return what a label says; None if it is no outcome.

    >>> outcome_of("538+"), outcome_of("12.5"), outcome_of("-1")
    (Outcome(time=538.0, event=False), Outcome(time=12.5, event=True), None)
    """
    found = WRITTEN.fullmatch(label)
    if found is None or not math.isfinite(float(found.group(1))):
        return None
    return Outcome(float(found.group(1)), not found.group(2))


def label_of(time: str, event: str) -> str | None:
    """Return the label for a time and the cell of an event column; None if the cell says neither yes nor no."""
    word = event.strip().casefold()
    if word in EVENT:
        return time
    return f"{time}{CENSORED}" if word in NO_EVENT else None
