"""What a subgroup of patients is: one of a few values of an attribute, all of which the job fixes before it begins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Subject:
    """What decides the groups of one image or row.

    Args:
        info: facts from the site's catalogue, see `records.ImageRecord`; untrusted, as they come from files.
        site: number of the site on the roster.
    """

    info: Mapping[str, Any]
    site: int


class Attribute(Protocol):
    """An attribute of patients, images or sites, built from the job's section ``evaluation``.

    Guarantees that every implementation must give: `values` depends on the job only, and every subject has exactly one.
    """

    values: Sequence[str]
    """Its values as the report shows them."""
    usual: int
    """How many of them a patient usually has: all but those for whatever is unknown or not listed."""

    def place(self, subject: Subject) -> int:
        """Return the position of the subject's value in `values`; must not fail, whatever the subject's facts are."""


@dataclass(frozen=True)
class Groups:
    """All groups of a job, numbered attribute by attribute; without attributes there are none.

    >>> Groups({}).count, Groups({}).norm_l2
    (0, 1.0)
    """

    attributes: Mapping[str, Attribute]

    @property
    def count(self) -> int:
        """Number of groups of all attributes together."""
        return sum(len(attribute.values) for attribute in self.attributes.values())

    @property
    def blocks(self) -> dict[str, slice]:
        """The numbers of the groups of each attribute."""
        found, start = {}, 0
        for name, attribute in self.attributes.items():
            found[name] = slice(start, start + len(attribute.values))
            start += len(attribute.values)
        return found

    @property
    def norm_l2(self) -> float:
        """Largest Euclidean norm of a patient's numbers for all patients and for every group, if each part's is at most 1.

        For each attribute, an image's row is in one group. The mean over a patient's images, one vector for all groups of
        the attribute, is a mean of vectors of norm at most 1. So 1 + attributes vectors of norm at most 1 are side by side.
        """
        return math.sqrt(1 + len(self.attributes))

    def of(self, subject: Subject) -> tuple[int, ...]:
        """Return the numbers of a subject's groups, one for each attribute."""
        places = (attribute.place(subject) for attribute in self.attributes.values())
        return tuple(block.start + place for block, place in zip(self.blocks.values(), places, strict=True))
