"""The hours in which a site works for jobs, in its own local time.

Outside of them a round or a step of statistics is refused before anything is read, with the time at which the site starts
again, so that the coordinator can wait for it. What has begun within the hours is finished.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from salus.common.errors import OutsideHours

HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
WORK = (
    "train",
    "evaluate",
    "measure",
    "canary",
)  # requests that begin something; the others cost next to nothing, or end a session


def minutes_of(text: str) -> tuple[int, int]:
    """Return begin and end of ``20:00-06:00`` in minutes of a day; raises ValueError for anything else."""
    match = HOURS.fullmatch(text)
    if match is None:
        raise ValueError('expected hours such as "20:00-06:00"')
    hour, minute, last_hour, last_minute = map(int, match.groups())
    begin, end = 60 * hour + minute, 60 * last_hour + last_minute
    if begin == end:
        raise ValueError("begin and end are the same; for the whole day, leave the list empty")
    return begin, end


def opens(hours: Iterable[str], local: datetime) -> datetime | None:
    """Return when the next of these hours begins; None if it is within them now, or if there are none.

    Args:
        local: the current local time, with its offset.
    """
    spans = [minutes_of(text) for text in hours]
    now = 60 * local.hour + local.minute
    if not spans or any((begin <= now < end) if begin < end else (now >= begin or now < end) for begin, end in spans):
        return None
    wait = min((begin - now) % 1440 for begin, _ in spans)
    return local.replace(second=0, microsecond=0) + timedelta(minutes=wait)


def check_hours(hours: Iterable[str], kind: str, now: datetime) -> None:
    """Raise OutsideHours for a request that would begin work outside of the site's hours."""
    if kind not in WORK:
        return
    local = now.astimezone()
    at = opens(hours, local)
    if at is not None:
        raise OutsideHours(at, now)
