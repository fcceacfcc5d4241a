"""Annotated objects of an item as rectangular fields: ``boxes [most, 2 * dims + 1]`` and ``boxes.there [most]``.

A box is its low corner, its high corner in pixels of the image as it is after the transforms, slowest axis first, and its class
number from 0. Pixel 0 covers 0 to 1.
"""

import numpy as np

from salus.common.batch import THERE, Field
from salus.common.errors import UnreadableImage
from salus.common.examples import BOXES, Array
from salus.common.optional_torch import torch

LEAST_SIDE = 1.0  # pixels; a box that a crop or a resize left thinner is no object to find


def object_fields(most: int, dims: int) -> dict[str, Field]:
    """Return the fields for at most so many objects of an item."""
    return {BOXES: Field((most, 2 * dims + 1)), BOXES + THERE: Field((most,))}


def padded_objects(boxes: Array, most: int, dims: int) -> dict[str, torch.Tensor]:
    """Return an item's annotated boxes as the fields of `object_fields`.

    Args:
        boxes: ``[boxes, 2 * dims + 1]`` with class numbers from 1, as the job counts them.

    Raises:
        UnreadableImage: more objects than the job allows; leaving some out would teach a network that they are none.
    """
    sides = boxes[:, dims : 2 * dims] - boxes[:, :dims]
    kept = boxes[(sides >= LEAST_SIDE).all(axis=1)]
    if len(kept) > most:
        raise UnreadableImage("too-many-objects", f"it has {len(kept)} objects; raise task.most_objects above {most}")
    values = np.zeros((most, 2 * dims + 1), np.float32)
    values[: len(kept)] = kept
    values[: len(kept), -1] -= 1
    there = torch.zeros(most)
    there[: len(kept)] = 1.0
    return {BOXES: torch.from_numpy(values), BOXES + THERE: there}
