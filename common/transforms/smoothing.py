"""Less noise: median, Gaussian, bilateral, Savitzky-Golay, non-local means and total variation.

The methods are those of SciPy and scikit-image. Beyond the border an image continues with its last value, not with zero, which
would be a tissue in CT.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator
from scipy import ndimage, signal

from salus.common.errors import UnreadableImage
from salus.common.transforms.filters import Channel, Filter, FilterSettings, Radius, by_slice, on_unit_range

BORDER = "nearest"
LAPLACIAN_PAIR = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)


class Median(Filter):
    """Replaces each value by the median around it."""

    class Settings(FilterSettings):
        """A median filter.

        Args:
            radius: Of the box around each voxel, in voxels.
        """

        kind: Literal["median"] = "median"
        radius: Radius = 1  # removes single outliers and keeps edges

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        found: Channel = ndimage.median_filter(channel, size=2 * self.settings.radius + 1, mode=BORDER)
        return found


class Gaussian(Filter):
    """Averages with a Gaussian's weights."""

    class Settings(FilterSettings):
        """A Gaussian filter.

        Args:
            sigma: Standard deviation of the weights.
            unit: Whether `sigma` is in `voxels` or in `mm`; in millimetres, images of all hospitals are smoothed alike.
        """

        kind: Literal["gaussian"] = "gaussian"
        sigma: Annotated[float, Limits(gt=0, le=50)] = 1.0
        unit: Literal["voxels", "mm"] = "voxels"  # pictures have no millimetres

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        sigma = [self.settings.sigma] * channel.ndim
        if self.settings.unit == "mm":
            if not spacing_mm:
                raise UnreadableImage("no-spacing", "a filter in millimetres needs the distance between its voxels")
            sigma = [min(self.settings.sigma / side, max(channel.shape)) for side in spacing_mm]
        found: Channel = ndimage.gaussian_filter(channel, sigma, mode=BORDER)
        return found


class Bilateral(Filter):
    """Averages over voxels that are near and of a similar grey value, slice by slice (Tomasi and Manduchi 1998)."""

    needs: ClassVar[tuple[str, ...]] = ("skimage.restoration",)

    class Settings(FilterSettings):
        """A bilateral filter.

        Args:
            sigma: Standard deviation of the weights by distance, in pixels.
            grey_sigma: Standard deviation of the weights by grey value, as a share of the image's range.
        """

        kind: Literal["bilateral"] = "bilateral"
        sigma: Annotated[float, Limits(gt=0, le=5)] = 1.5
        grey_sigma: Annotated[float, Limits(ge=1e-3, le=1)] = 0.1  # noise of a tenth is smoothed, edges are kept

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        own, restoration = self.settings, self.modules[0]

        def smooth(plane: Channel) -> Channel:
            found: Channel = restoration.denoise_bilateral(
                plane,
                win_size=2 * math.ceil(2 * own.sigma) + 1,
                sigma_color=own.grey_sigma,
                sigma_spatial=own.sigma,
                mode="edge",
            )
            return found

        return on_unit_range(channel, lambda values: by_slice(values, smooth))


class SavitzkyGolay(Filter):
    """Fits a polynomial to the values around each voxel, along one axis after the other (Savitzky and Golay 1964)."""

    class Settings(FilterSettings):
        """A Savitzky-Golay filter.

        Args:
            window: Voxels that the polynomial is fitted to; an odd number.
            order: Degree of the polynomial.
            axis: Axis of the image, `x`, `y` or `z`; `all` takes each in turn.
        """

        kind: Literal["savitzky-golay"] = "savitzky-golay"
        window: Annotated[int, Limits(ge=3, le=51)] = 5
        order: Annotated[int, Limits(ge=0, le=8)] = 2  # keeps the height of small structures
        axis: Literal["all", "x", "y", "z"] = "all"

        @model_validator(mode="after")
        def _odd_and_larger(self) -> Self:
            if self.window % 2 == 0 or self.window <= self.order:
                raise ValueError("expected an odd window that is larger than order")
            return self

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        own = self.settings
        axes = range(channel.ndim) if own.axis == "all" else [channel.ndim - 1 - "xyz".index(own.axis)]
        for axis in axes:
            if axis < 0:
                continue  # a picture has no z
            channel = signal.savgol_filter(channel, own.window, own.order, axis=axis, mode=BORDER)
        return channel


class NonLocalMeans(Filter):
    """Averages over places that look alike, wherever they are (Buades, Coll and Morel 2005).

    The strength follows the image's own noise, estimated slice by slice as in Immerkaer 1996.
    """

    needs: ClassVar[tuple[str, ...]] = ("skimage.restoration",)

    class Settings(FilterSettings):
        """A filter by non-local means.

        Args:
            patch: Side of the patches that are compared, in voxels.
            distance: How far apart compared patches may be, in voxels.
            strength: Cut-off in standard deviations of the noise; larger smooths more.
        """

        kind: Literal["non-local-means"] = "non-local-means"
        patch: Annotated[int, Limits(ge=2, le=9)] = 3
        distance: Annotated[int, Limits(ge=1, le=15)] = 5  # the time grows with its cube in a volume
        strength: Annotated[float, Limits(gt=0, le=5)] = 0.8  # the usual choice where the noise is known

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        own, restoration = self.settings, self.modules[0]

        def smooth(values: Channel) -> Channel:
            noise = noise_sd(values)
            if noise <= 0:
                return values
            found: Channel = restoration.denoise_nl_means(
                values, own.patch, own.distance, h=own.strength * noise, sigma=noise, fast_mode=True
            )
            return found

        return on_unit_range(channel, smooth)


class TotalVariation(Filter):
    """The nearest image with less total variation (Chambolle 2004)."""

    needs: ClassVar[tuple[str, ...]] = ("skimage.restoration",)

    class Settings(FilterSettings):
        """A filter by total variation.

        Args:
            weight: How much smoothness counts, for an image from 0 to 1; larger smooths more.
        """

        kind: Literal["total-variation"] = "total-variation"
        weight: Annotated[float, Limits(gt=0, le=10)] = 0.1

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        restoration: Any = self.modules[0]
        return on_unit_range(channel, lambda v: restoration.denoise_tv_chambolle(v, weight=self.settings.weight))


def noise_sd(values: Channel) -> float:
    """Return the standard deviation of an image's noise, if it is the same everywhere (Immerkaer 1996, eq. 2).

    Args:
        values: ``[y, x]`` or ``[z, y, x]``, of which every slice is taken by itself.
    """
    if min(values.shape[-2:]) < 3:
        return 0.0
    kernel = LAPLACIAN_PAIR if values.ndim == 2 else LAPLACIAN_PAIR[None]
    inner = ndimage.convolve(values, kernel, mode=BORDER)[..., 1:-1, 1:-1]
    return float(math.sqrt(math.pi / 2) * np.abs(inner).mean() / 6)
