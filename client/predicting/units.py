"""What one prediction is made for: an image, or all images of a patient where the task takes them together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from salus.client.data.preparing import order_of
from salus.client.data.several import in_order, places_of
from salus.client.predicting.inputs import Input
from salus.common.tasks.several import OfSeveral


@dataclass(frozen=True)
class Unit:
    """The images of one prediction, in order.

    Args:
        key: of the unit, for the continuation of a run.
    """

    key: str
    images: tuple[Input, ...]

    @property
    def item(self) -> str:
        """The name of its first image."""
        return self.images[0].item


def units_of(found: Sequence[Input], several: OfSeveral | None) -> list[Unit]:
    """Return the units of images, in the order of their first ones; of a patient with more images, those that training uses."""
    if several is None:
        return [Unit(one.key, (one,)) for one in found]
    patients: dict[str, list[Input]] = {}
    for one in found:
        patients.setdefault(one.patient, []).append(one)
    units = []
    for own in (in_order(own, [order_of(one.info) for one in own]) for own in patients.values()):
        kept = [own[place] for place in places_of([one.sha256 or one.key for one in own], several)]
        # Another set of images of the same patient is another unit.
        key = hashlib.sha256("\n".join(one.key for one in kept).encode()).hexdigest()
        units.append(Unit(key, tuple(kept)))
    return units
