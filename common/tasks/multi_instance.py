"""Multi-instance learning: a patient is a bag of images in any order, and positive if any of them is (Dietterich et al. 1997).

Which image made a bag positive need not be known: an item's label is the largest of its images' labels in the order of the
job's classes, so the first class is that of a bag in which nothing was found.
"""

from collections.abc import Sequence

from salus.common.examples import Array
from salus.common.tasks.multilabel import MultiLabel, MultiLabelSettings
from salus.common.tasks.several import ItemSettings, Several, largest


class MultiInstance(Several):
    """One label per bag."""

    def label_of(self, targets: Sequence[Array | int]) -> Array | int | None:
        """Return the largest label of the images."""
        return largest(targets)


class FindingsSettings(ItemSettings, MultiLabelSettings):
    """Settings of multi-instance learning with several findings."""


class MultiInstanceFindings(Several, MultiLabel):
    """Any number of the job's classes per bag; a finding is present if it is in any image."""

    Settings = FindingsSettings

    def label_of(self, targets: Sequence[Array | int]) -> Array | int | None:
        """Return which findings any image has."""
        return largest(targets)
