"""The time until which a site says that it waits, in its refusal outside of its hours."""

import re
from collections.abc import Iterable
from datetime import datetime

SAID = re.compile(r"waits until [0-9: -]{5,16} of its local time \((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4})\)")


def wait_s(texts: Iterable[str], now: datetime) -> float:
    """Return the seconds until the first of these sites works again; 0 if none says so.

    Args:
        texts: refusals, see `errors.OutsideHours`; a site may write anything there.
    """
    found = []
    for text in texts:
        if match := SAID.search(text):
            try:
                found.append((datetime.fromisoformat(match[1]) - now).total_seconds())
            except (ValueError, OverflowError):
                continue  # no time
    return max(0.0, min(found, default=0.0))
