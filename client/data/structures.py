"""The structures of a mask: how the numbers in a file become class numbers with names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.targets import MAX_NAMES, MAX_NUMBER, Target
from salus.common.errors import DataError, UnreadableImage

Array = npt.NDArray[Any]
WHOLE = 1e-3  # a scaled file stores whole numbers with this error


@dataclass(frozen=True)
class Structures:
    """Which numbers in a mask's files make up each structure.

    Args:
        numbers: by the structure's name, in the order of the class numbers; empty where every number is its own name.
    """

    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the class numbers 1, 2 ..., empty where a number is its own name."""
        return tuple(self.numbers)

    @property
    def overlap(self) -> bool:
        """Whether one number belongs to several structures."""
        every = [number for mine in self.numbers.values() for number in mine]
        return len(set(every)) != len(every)

    @classmethod
    def named(cls, names: Sequence[str]) -> "Structures":
        """Return structures with these names for the numbers 1, 2 ...; none for no names."""
        return cls({name: (number,) for number, name in enumerate(names, start=1)})

    def chosen(self, names: Sequence[str]) -> "Structures":
        """Return what the operator's names mean: some of these structures, or new names for the numbers 1, 2 ..."""
        if names and set(names) <= set(self.numbers):
            return Structures({name: self.numbers[name] for name in names})
        return Structures.named(names) if names else self


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the operator's names of structures; raises DataError for too many, or one that is given twice."""
    if len(names) > MAX_NAMES or len(set(names)) != len(names):
        raise DataError(f"Expected at most {MAX_NAMES} different structures.", remedy="Correct --structures.")
    return tuple(names)


def whole_numbers(values: Array) -> Array:
    """Return a mask's values as uint8, or as int16 if they are larger.

    Raises:
        UnreadableImage: ``not-a-mask``; a value that is not a whole number from 0 to 32767.
    """
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    if values.dtype.kind == "f" and not (np.abs(values - rounded) <= WHOLE).all():
        raise UnreadableImage("not-a-mask", "the mask has values that are not whole numbers")
    if rounded.size and not (rounded.min() >= 0 and rounded.max() <= MAX_NUMBER):
        raise UnreadableImage("not-a-mask", f"the mask has values below 0 or above {MAX_NUMBER}")
    return rounded.astype(np.uint8 if not values.size or rounded.max() < 256 else np.int16)


def class_numbers(values: Array, structures: Structures, *, chosen: bool = False) -> Array:
    """Return a mask in the class numbers of its structures: like `values`, or ``[structures, ...]`` of 0 and 1 if they overlap.

    Args:
        values: whole numbers.
        chosen: some numbers are left out on purpose and become background.

    Raises:
        UnreadableImage: ``unknown-structure``; a number that belongs to no structure.
    """
    if not structures.numbers or not values.size:
        return values
    largest = max(int(values.max()), *(max(mine) for mine in structures.numbers.values()))
    known = {0, *(number for mine in structures.numbers.values() for number in mine)}
    if not chosen:
        strange = [number for number in np.flatnonzero(np.bincount(values.reshape(-1))).tolist() if number not in known]
        if strange:
            raise UnreadableImage("unknown-structure", f"the mask has the number {strange[0]}, which has no name")
    if structures.overlap:
        return np.stack([np.isin(values, mine) for mine in structures.numbers.values()]).astype(np.uint8)
    table = np.zeros(largest + 1, np.uint8 if len(structures.numbers) < 256 else np.int16)
    for number, mine in enumerate(structures.numbers.values(), start=1):
        table[list(mine)] = number
    return table[values]


def volumes(mask: Array, names: Sequence[str], voxel: float, dimensions: int) -> dict[str, float]:
    """Return the volume of each structure, for each of `names`, or for each number that occurs.

    Args:
        mask: class numbers ``[*spatial]``, or ``[structures, *spatial]`` of 0 and 1.
        voxel: volume of one voxel, in the unit of the result.
        dimensions: number of spatial axes.
    """
    if mask.ndim > dimensions:
        counts = [int(np.count_nonzero(channel)) for channel in mask]
        words = names or [str(number) for number in range(1, len(mask) + 1)]
        return {name: count * voxel for name, count in zip(words, counts, strict=True)}
    counts = np.bincount(mask.reshape(-1), minlength=len(names) + 1).tolist()
    if names:
        return {name: counts[number] * voxel for number, name in enumerate(names, start=1)}
    return {str(number): count * voxel for number, count in enumerate(counts) if number and count}


@dataclass(frozen=True)
class Mask:
    """A mask on its image's grid.

    Args:
        values: class numbers ``[*spatial]``, or ``[structures, *spatial]`` of 0 and 1 where structures overlap.
        names: of the class numbers, empty where a number is its own name.
        outside: share of what is annotated that lies outside the image.
        dimensions: number of spatial axes.
    """

    values: Array
    names: tuple[str, ...]
    outside: float
    dimensions: int = 3

    def target(self, voxel_ml: float) -> Target:
        """Return what the catalogue keeps about it."""
        return Target("mask", volumes(self.values, self.names, voxel_ml, self.dimensions), self.outside)
