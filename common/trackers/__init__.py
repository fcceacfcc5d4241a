"""Trackers by name: how objects that were found in single frames become tracks.

To add one: `common/trackers/<name>.py` with a class that fulfils `base.Tracker`, one test, one line below.
"""

from salus.common.registry import Registry

TRACKERS = Registry(
    "tracker",
    "salus.trackers",
    {
        "deepsort": "salus.common.trackers.deepsort:DeepSort",
        "kcf": "salus.common.trackers.kcf:Kcf",
        "overlap": "salus.common.trackers.overlap:Overlap",
        "sort": "salus.common.trackers.sort:Sort",
    },
)
