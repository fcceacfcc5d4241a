"""Where an image changes: Sobel's gradient, Laplacian, Canny's edges."""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator
from scipy import ndimage

from salus.common.transforms.filters import Channel, Filter, FilterSettings, by_slice, on_unit_range

BORDER = "nearest"


class Sobel(Filter):
    """The length of the gradient by Sobel's filter, in grey values a voxel."""

    class Settings(FilterSettings):
        """Sobel's filter."""

        kind: Literal["sobel"] = "sobel"

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        weight = 2.0 * 4.0 ** (channel.ndim - 1)  # so that a ramp of one grey value a voxel gives 1
        parts = [ndimage.sobel(channel, axis=axis, mode=BORDER) / weight for axis in range(channel.ndim)]
        found: Channel = np.sqrt(sum(part**2 for part in parts))
        return found


class Laplacian(Filter):
    """The Laplacian, of the image as it is or smoothed by a Gaussian first (Marr and Hildreth 1980)."""

    class Settings(FilterSettings):
        """A Laplacian.

        Args:
            sigma: Standard deviation of the Gaussian in voxels; 0 does not smooth.
        """

        kind: Literal["laplacian"] = "laplacian"
        sigma: Annotated[float, Limits(ge=0, le=20)] = 1.0  # without smoothing it shows the noise

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        sigma = self.settings.sigma
        found: Channel = (
            ndimage.gaussian_laplace(channel, sigma, mode=BORDER)
            if sigma > 0
            else ndimage.laplace(channel, mode=BORDER)
        )
        return found


class Canny(Filter):
    """Canny's edges, 1 on an edge and 0 elsewhere, slice by slice (Canny 1986)."""

    needs: ClassVar[tuple[str, ...]] = ("skimage.feature",)

    class Settings(FilterSettings):
        """Canny's edge detector.

        Args:
            sigma: Standard deviation of the smoothing, in pixels.
            low, high: Gradients, as quantiles of the slice's, at which an edge goes on and begins.
        """

        kind: Literal["canny"] = "canny"
        sigma: Annotated[float, Limits(gt=0, le=20)] = 1.0
        low: Annotated[float, Limits(ge=0, le=1)] = 0.8  # quantiles, because hospitals' grey values differ
        high: Annotated[float, Limits(ge=0, le=1)] = 0.9

        @model_validator(mode="after")
        def _low_below_high(self) -> Self:
            if self.low > self.high:
                raise ValueError("expected low of at most high")
            return self

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        own, feature = self.settings, self.modules[0]

        def edges(plane: Channel) -> Channel:
            if not np.ptp(plane):
                return np.zeros_like(plane)
            found = feature.canny(
                on_unit_range(plane, lambda v: v), own.sigma, own.low, own.high, use_quantiles=True, mode=BORDER
            )
            return np.asarray(found, np.float64)

        return by_slice(channel, edges)
