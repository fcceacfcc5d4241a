"""Links boxes that overlap those of the frame before (Bochinski et al. 2017); nothing is foretold, so it is the baseline."""

from typing import ClassVar

from salus.common.strict import Strict
from salus.common.trackers.base import Linking, TrackerSettings


class Overlap(Linking):
    """A track stays where it was found last."""

    Settings: ClassVar[type[Strict]] = TrackerSettings
