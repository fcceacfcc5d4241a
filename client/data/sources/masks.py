"""From a mask's file to the annotation of an image: placed on the image's grid, with named structures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.grids import index_map, resampled, same_grid, share_outside
from salus.client.data.sources.nifti import NiftiVolume
from salus.client.data.structures import Mask, Structures, class_numbers, whole_numbers
from salus.common.errors import UnreadableImage

Array = npt.NDArray[Any]


def on_grid(mask: NiftiVolume, image: NiftiVolume) -> tuple[Array, float]:
    """Return a mask's whole numbers ``[z, y, x]`` on the image's grid, and the share of it that lies outside.

    Raises:
        UnreadableImage: ``mask-elsewhere``, ``mask-geometry`` or ``not-a-mask``.
    """
    numbers = whole_numbers(mask.values[0])
    shape = image.values.shape[1:]
    if mask.placed != image.placed or (not mask.placed and mask.values.shape[1:] != shape):
        raise UnreadableImage("mask-geometry", "the mask or its image does not say where it lies in the patient")
    matrix = index_map(image.affine, mask.affine)
    if numbers.shape == shape and same_grid(shape, matrix):
        return numbers, 0.0
    if not mask.placed:
        raise UnreadableImage("mask-geometry", "the mask's spacing differs from its image's, and neither is placed")
    placed = resampled(numbers, matrix, shape)
    if not resampled(np.ones(numbers.shape, bool), matrix, shape).any():
        raise UnreadableImage("mask-elsewhere", "the mask and its image do not overlap in space")
    outside = share_outside(numbers, matrix, shape)
    if outside == 1.0:
        raise UnreadableImage("mask-elsewhere", "everything that the mask marks lies outside its image")
    return placed, outside


def combined(masks: Sequence[tuple[Array, Structures, float]], *, chosen: bool) -> Mask:
    """Return one mask of several files' whole numbers on one grid; structures of several files may overlap.

    Args:
        masks: numbers, structures and share outside of each file.
        chosen: as in `class_numbers`.
    """
    if len(masks) == 1:
        numbers, structures, outside = masks[0]
        return Mask(class_numbers(numbers, structures, chosen=chosen), structures.names, outside)
    channels: list[Array] = []
    names: list[str] = []
    for numbers, structures, _ in masks:
        for name, mine in structures.numbers.items():
            channels.append(np.isin(numbers, mine))
            names.append(name)
    stack = np.stack(channels)
    worst = max(outside for _, _, outside in masks)
    if (stack.sum(axis=0, dtype=np.int16) > 1).any():
        return Mask(stack.astype(np.uint8), tuple(names), worst)
    numbered = np.zeros(stack.shape[1:], np.uint8 if len(names) < 256 else np.int16)
    for number, channel in enumerate(channels, start=1):
        numbered[channel] = number
    return Mask(numbered, tuple(names), worst)
