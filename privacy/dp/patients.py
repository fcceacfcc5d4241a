"""Which images of a batch belong to which patient."""

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Patients:
    """The patients of one batch.

    Args:
        of_image: ``[images]``, for each image the number of its patient, 0 .. count - 1; int64.
        count: number of patients; each has at least one image.
    """

    of_image: torch.Tensor
    count: int

    @cached_property
    def images(self) -> torch.Tensor:
        """Number of images of each patient, ``[count]``."""
        return torch.bincount(self.of_image, minlength=self.count)

    @cached_property
    def most_images(self) -> int:
        """The largest number of images of one patient."""
        return int(self.images.max()) if self.count else 0

    @cached_property
    def single(self) -> bool:
        """Whether image i is the only one of patient i."""
        return self.count == len(self.of_image) and bool(
            (self.of_image == torch.arange(self.count, device=self.of_image.device)).all()
        )

    @cached_property
    def _place(self) -> torch.Tensor:
        """The place of each image among its patient's, ``[images]``."""
        same = self.of_image[:, None] == self.of_image[None, :]
        return torch.tril(same, diagonal=-1).sum(1)

    @property
    def image_weights(self) -> torch.Tensor:
        """One over the number of images of each image's patient, float64 ``[images]``: a patient's loss is its images' mean."""
        return 1.0 / self.images[self.of_image].double()

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[images, T, d]`` as ``[count, most_images * T, d]``: a patient's positions behind each other, zeros after."""
        if self.single:
            return x
        padded = x.new_zeros(self.count, self.most_images, *x.shape[1:])
        padded[self.of_image, self._place] = x
        return padded.flatten(1, 2)

    def summed(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[images, ...]`` summed over each patient's images: ``[count, ...]``."""
        if self.single:
            return x
        return x.new_zeros(self.count, *x.shape[1:]).index_add_(0, self.of_image, x)

    def to(self, device: torch.device) -> "Patients":
        """Return the same on another device."""
        return Patients(self.of_image.to(device), self.count)
