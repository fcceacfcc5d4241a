"""Harrell's concordance, exactly, for patients that are in one place, such as the test split of a simulation."""

from collections.abc import Sequence

import numpy as np

from salus.common.outcomes import Outcome


def c_index(risks: Sequence[float], outcomes: Sequence[Outcome]) -> float | None:
    """Return the share of comparable pairs in which the patient with the earlier event has the higher risk.

    Two patients are comparable if one had the event while the other was followed for longer, or was lost at the same time.
    Equal risks count half. None without such a pair (Harrell et al. 1982).
    """
    if not outcomes:
        return None
    risk, time = np.asarray(risks), np.array([one.time for one in outcomes])
    event = np.array([one.event for one in outcomes])
    later = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    pairs = event[:, None] & later
    count = int(pairs.sum())
    if not count:
        return None
    right = (pairs & (risk[:, None] > risk)).sum() + 0.5 * (pairs & (risk[:, None] == risk)).sum()
    return float(right / count)
