"""The slow change of brightness over an MR image, estimated and divided out: N4 of SimpleITK (Tustison et al. 2010)."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field as Limits

from salus.common.transforms.filters import Channel, Filter, FilterSettings

LEAST_SIDE = 4  # of the shrunken image, below which no field can be told


class N4(Filter):
    """Divides an image by the bias field that N4 finds in its foreground, which is what lies above Otsu's threshold."""

    measured: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("SimpleITK",)

    class Settings(FilterSettings):
        """A correction of the bias field.

        Args:
            iterations: At each of the fitting levels, of which each has twice as many control points as the one before.
            shrink: Factor by which the image is reduced while the field is estimated.
        """

        kind: Literal["n4"] = "n4"
        iterations: Annotated[tuple[Annotated[int, Limits(ge=1, le=200)], ...], Limits(min_length=1, max_length=6)] = (
            50,
            50,
            50,
        )
        shrink: Annotated[int, Limits(ge=1, le=16)] = 4  # a field is smooth: full resolution takes 64 times as long

    settings: Settings

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        if not np.ptp(channel):
            return channel
        sitk, own = self.modules[0], self.settings
        lowest = float(channel.min())
        image = sitk.GetImageFromArray((channel - lowest).astype(np.float32))
        if spacing_mm:
            image.SetSpacing([float(side) for side in reversed(spacing_mm)])
        foreground = sitk.OtsuThreshold(image, 0, 1)
        factors = [max(1, min(own.shrink, side // LEAST_SIDE)) for side in image.GetSize()]
        small, mask = sitk.Shrink(image, factors), sitk.Shrink(foreground, factors)
        if min(small.GetSize()) < LEAST_SIDE or not sitk.GetArrayViewFromImage(mask).any():
            return channel  # nothing to estimate a field from
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetNumberOfWorkUnits(1)  # sums in another order have other last digits
        n4.SetMaximumNumberOfIterations(list(own.iterations))
        n4.Execute(small, mask)
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).astype(np.float64))
        found: Channel = (channel - lowest) / np.maximum(field, 1e-6) + lowest
        return found
