"""The patients of one pass through a network: a grid of fixed size with one row for each patient.

A library chooses its kernels, and thus the order of additions, by batch size. So the size of a pass depends only on public
numbers and on the numbers of images of its patients; unused rows are padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from salus.common.batch import Batch


@dataclass(frozen=True)
class Patients:
    """The layout of a batch: image ``p * places + j`` is image j of patient p.

    Args:
        images: ``[patients]``, number of images of each patient, 0 .. places, int64; a patient without images is a free row.
        places: number of images per row; a patient with fewer is padded with copies of its first image.
    """

    images: torch.Tensor
    places: int = 1

    @property
    def count(self) -> int:
        """Number of rows, including free ones."""
        return len(self.images)

    @cached_property
    def of_row(self) -> list[int]:
        """The number of images of each row, as Python integers."""
        return [int(images) for images in self.images]

    @cached_property
    def present(self) -> torch.Tensor:
        """Which rows hold a patient, boolean ``[patients]``."""
        return self.images > 0

    def numbers(self) -> list[tuple[int, int]]:
        """Return (place in the batch, patient) of every real image."""
        return [(p * self.places + j, p) for p, images in enumerate(self.of_row) for j in range(images)]

    def repeated(self, count: int) -> "Patients":
        """Return the layout in which every image has this many rows, behind each other, such as the frames of a video."""
        return self if count == 1 else Patients(self.images * count, self.places * count)

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[images, T, d]`` as ``[patients, places * T, d]``: a patient's positions behind each other."""
        return x.reshape(self.count, self.places * x.shape[1], *x.shape[2:])

    def summed(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[images, ...]`` summed over each patient's places: ``[patients, ...]``."""
        return x if self.places == 1 else x.reshape(self.count, self.places, *x.shape[1:]).sum(1)

    def spread(self, x: torch.Tensor, dimensions: int) -> torch.Tensor:
        """Return ``[patients]`` as ``[images, 1, ...]`` with so many dimensions, each patient's value at all its places."""
        return x.repeat_interleave(self.places).reshape(-1, *[1] * (dimensions - 1))

    def to(self, device: torch.device) -> "Patients":
        """Return the same on another device."""
        return Patients(self.images.to(device), self.places)


def places_of(images: int, most: int) -> int:
    """Return the number of places in a patient's row: the next power of two, at most `most`.

    It depends only on the patient's own number of images.
    """
    return min(most, 1 << max(0, images - 1).bit_length())


def grid(parts: Sequence[Batch], rows: int, places: int) -> tuple[Batch, Patients]:
    """Return a batch of ``rows * places`` images and its layout; free rows hold zeros in every field.

    Args:
        parts: images of at most `rows` patients, each with 1 to `places` of them.
    """
    fields: dict[str, torch.Tensor] = {}
    for name in parts[0]:
        first = parts[0][name]
        whole = first.new_zeros(rows * places, *first.shape[1:])
        for row, part in enumerate(parts):
            whole[row * places : (row + 1) * places] = part[name][_padded(len(part), places)]
        fields[name] = whole
    images = torch.tensor([len(part) for part in parts] + [0] * (rows - len(parts)))
    return Batch(fields), Patients(images, places)


def alone(batch: Batch, patients: Patients, row: int) -> tuple[Batch, Patients]:
    """Return a batch of the same sizes in which one row's patient is present, and every other row holds copies of that row."""
    mine = torch.arange(row * patients.places, (row + 1) * patients.places, device=batch.device)
    only = torch.zeros_like(patients.images)
    only[row] = patients.images[row]
    return batch.rows(mine.repeat(patients.count)), Patients(only, patients.places)


def _padded(images: int, places: int) -> list[int]:
    return [j if j < images else 0 for j in range(places)]
