"""Morphological operations on images or on masks of class numbers, with a ball as structuring element (Serra 1982)."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.examples import Array, Example
from salus.common.transforms.base import Draw, is_image
from salus.common.transforms.filters import Channel, Filter, FilterSettings, Radius

GREY: dict[str, Callable[..., Channel]] = {
    "erosion": ndimage.grey_erosion,
    "dilation": ndimage.grey_dilation,
    "opening": ndimage.grey_opening,
    "closing": ndimage.grey_closing,
    "gradient": ndimage.morphological_gradient,
    "top-hat": ndimage.white_tophat,
    "bottom-hat": ndimage.black_tophat,
}
BINARY: dict[str, Callable[..., npt.NDArray[np.bool_]]] = {
    "erosion": ndimage.binary_erosion,
    "dilation": ndimage.binary_dilation,
    "opening": ndimage.binary_opening,
    "closing": ndimage.binary_closing,
}


class Morphology(Filter):
    """Erosion, dilation and what is made of them: on grey values, or on each structure of a mask."""

    class Settings(FilterSettings):
        """A morphological operation.

        Args:
            operation: `erosion`, `dilation`, `opening` or `closing`; on images also `gradient`, `top-hat` (what is brighter than
                its surroundings) and `bottom-hat` (what is darker).
            radius: Of the ball, in voxels.
            on: `images`, or `masks`: each structure by itself, and no structure grows over another one.
        """

        kind: Literal["morphology"] = "morphology"
        operation: Literal["erosion", "dilation", "opening", "closing", "gradient", "top-hat", "bottom-hat"]
        radius: Radius = 1
        on: Literal["images", "masks"] = "images"

    settings: Settings

    def spec(self, given: Spec) -> Spec:
        own = self.settings
        if own.on == "masks" and own.operation not in BINARY:
            raise JobError(
                f'expected one of {", ".join(BINARY)} with on = "masks", got {own.operation!r}.',
                remedy="Correct operation, or work on images.",
            )
        if own.on == "masks" and own.fields:
            raise JobError('expected no fields with on = "masks", which changes every mask.', remedy="Remove fields.")
        return super().spec(given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        """Return the example with changed images or masks."""
        if self.settings.on == "images":
            return super().__call__(example, draw)
        masks = {
            name: np.stack([self._mask(layer) for layer in array])
            for name, array in example.fields.items()
            if name in example.spatial and not name.startswith("_") and not is_image(array)
        }
        return example.with_fields(**masks)

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        own = self.settings
        return GREY[own.operation](channel, footprint=ball(own.radius, channel.ndim), mode="nearest")

    def _mask(self, layer: Array) -> Array:
        own, element = self.settings, ball(self.settings.radius, layer.ndim)
        found = np.zeros_like(layer)
        for number in np.unique(layer[layer > 0]):
            change = BINARY[own.operation](np.pad(layer == number, own.radius, mode="edge"), element)
            inner = change[tuple(slice(own.radius, -own.radius) for _ in range(layer.ndim))]
            found[inner & ((layer == number) | ((layer == 0) & (found == 0)))] = number
        return found


def ball(radius: int, dimensions: int) -> npt.NDArray[np.bool_]:
    """Return a ball ``[2 radius + 1] * dimensions``."""
    index = np.indices((2 * radius + 1,) * dimensions) - radius
    inside: npt.NDArray[np.bool_] = (index**2).sum(axis=0) <= radius**2
    return inside
