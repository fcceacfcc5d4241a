"""Parts of an input that are switched off together: cells of a regular grid of an image, the features of a row's column."""

import math

import torch

from salus.client.explaining.subject import Subject


def parts_of(subject: Subject, along: int) -> torch.Tensor:
    """Return the number of each value's part, int64 ``[1, 1, *spatial]`` or ``[1, features]``.

    Args:
        along: cells along an axis of a picture; a volume has as many cells in all, so that it takes as many passes.
    """
    if subject.is_row:
        return torch.tensor(subject.groups)[None]
    sides = subject.inputs.shape[2:]
    each = along if len(sides) == 2 else max(2, round(along ** (2 / 3)))
    number = torch.zeros((1, 1, *sides), dtype=torch.int64)
    for axis, side in enumerate(sides, start=2):
        count = min(each, side)
        place = torch.arange(side) * count // side
        number = number * count + place.reshape([-1 if axis == own else 1 for own in range(number.dim())])
    return number


def count_of(parts: torch.Tensor) -> int:
    """Return the number of parts."""
    return int(parts.max()) + 1


def window_of(subject: Subject, along: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a window and its steps for occlusion: two steps to a window, so that windows overlap.

    Args:
        along: windows along the axis of a picture that do not overlap; fewer in a volume.
    """
    if subject.is_row:
        return (1,), (1,)
    channels, *sides = subject.inputs.shape[1:]
    each = along if len(sides) == 2 else max(2, round(along ** (2 / 3)))
    window = [max(1, math.ceil(side / each)) for side in sides]
    return (channels, *window), (channels, *(max(1, side // 2) for side in window))
