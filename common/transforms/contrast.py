"""Other contrast: equalised histograms, globally or in tiles (CLAHE), and a fixed gamma."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field as Limits

from salus.common.transforms.filters import Channel, Filter, FilterSettings, on_unit_range

COLOURS = (3, 4)


class Equalize(Filter):
    """Grey values by their rank, from 0 to 1: every part of the range is used equally often."""

    class Settings(FilterSettings):
        """A histogram equalisation.

        Args:
            bins: Of the histogram.
        """

        kind: Literal["equalize"] = "equalize"
        bins: Annotated[int, Limits(ge=2, le=65536)] = 256

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        low, high = float(channel.min()), float(channel.max())
        if not high > low:
            return np.zeros_like(channel)
        counts, edges = np.histogram(channel, self.settings.bins, (low, high))
        centres = (edges[:-1] + edges[1:]) / 2
        ranks = counts.cumsum() / channel.size
        return np.interp(channel.ravel(), centres, ranks).reshape(channel.shape)


class Clahe(Filter):
    """Contrast-limited adaptive histogram equalisation in two or three dimensions (Pizer et al. 1987); gives 0 to 1."""

    needs: ClassVar[tuple[str, ...]] = ("skimage.exposure",)

    class Settings(FilterSettings):
        """A contrast-limited adaptive histogram equalisation.

        Args:
            tiles: Tiles along each side.
            clip_limit: Share of a tile's voxels that one grey value may have; larger gives more contrast and more noise.
            bins: Of each tile's histogram.
        """

        kind: Literal["clahe"] = "clahe"
        tiles: Annotated[int, Limits(ge=1, le=64)] = 8
        clip_limit: Annotated[float, Limits(gt=0, le=1)] = 0.01
        bins: Annotated[int, Limits(ge=2, le=4096)] = 256

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        low, high = float(channel.min()), float(channel.max())
        if not high > low:
            return np.zeros_like(channel)
        own, width = self.settings, channel.shape[-1]
        tile = [max(1, -(-side // own.tiles)) for side in channel.shape]
        unit = (channel - low) / (high - low)
        if width in COLOURS:  # scikit-image takes a volume of this width for a colour image
            unit = np.concatenate([unit, *[unit[..., -1:]] * (max(COLOURS) + 1 - width)], axis=-1)
        found = self.modules[0].equalize_adapthist(unit, kernel_size=tile, clip_limit=own.clip_limit, nbins=own.bins)
        return np.asarray(found, np.float64)[..., :width]


class GammaCorrection(Filter):
    """Grey values to a fixed power within the image's own range; `gamma` is the random one."""

    class Settings(FilterSettings):
        """A gamma correction.

        Args:
            exponent: Below 1 brightens, above 1 darkens.
        """

        kind: Literal["gamma-correction"] = "gamma-correction"
        exponent: Annotated[float, Limits(ge=0.05, le=20)]

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        return on_unit_range(channel, lambda values: values**self.settings.exponent)
