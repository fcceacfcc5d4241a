"""Random changes of grey values: noise, blur, contrast, and missing regions. Masks stay as they are."""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.examples import Array, Bools, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, FieldName, Share, Transform, check_fields, check_rising, on_measured


class ValueSettings(Strict):
    """How often a random change of grey values happens, and to which images.

    Args:
        probability: Chance that an image is changed.
        fields: Images that are changed; empty changes all.
    """

    probability: Share = 0.2  # most images stay as they were measured
    fields: tuple[FieldName, ...] = ()


class _Valued(Transform):
    random: ClassVar[bool] = True
    alike: ClassVar[bool] = True
    settings: ValueSettings

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        assert draw is not None
        stream = draw

        def change(values: Array, padding: Bools | None) -> Array:
            return self._changed(values, padding, stream) if stream.random() < self.settings.probability else values

        return on_measured(example, self.settings.fields, change)

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        raise NotImplementedError


class GaussianNoise(_Valued):
    """Adds normal noise to every voxel (`RandGaussianNoise` of MONAI)."""

    class Settings(ValueSettings):
        """Noise.

        Args:
            deviation: Largest standard deviation, in grey values as the steps before leave them; drawn from 0 to this.
        """

        kind: Literal["gaussian-noise"] = "gaussian-noise"
        deviation: Annotated[float, Limits(gt=0, le=1e4)] = 0.1  # a twentieth of the usual range from -1 to 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: GaussianNoise.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        deviation = draw.uniform(0, self.settings.deviation)
        noise: Array = draw.standard_normal(values.shape, dtype=np.float32)
        return values + np.float32(deviation) * noise


class GaussianBlur(_Valued):
    """Smooths an image (`RandGaussianSmooth` of MONAI)."""

    class Settings(ValueSettings):
        """Blur.

        Args:
            low, high: Range of the standard deviation of the Gaussian, in voxels.
        """

        kind: Literal["gaussian-blur"] = "gaussian-blur"
        low: Annotated[float, Limits(gt=0, le=10)] = 0.25  # from hardly visible
        high: Annotated[float, Limits(gt=0, le=10)] = 1.0  # to about a thick slice

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: GaussianBlur.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        import torch
        from monai.transforms.intensity.array import GaussianSmooth

        sigma = draw.uniform(self.settings.low, self.settings.high)
        edge = int(np.ceil(4 * sigma)) + 1  # MONAI cuts the Gaussian there, and takes zeros beyond the image
        wide = np.pad(values, [(0, 0), *[(edge, edge)] * (values.ndim - 1)], mode="edge").astype(np.float32)
        smoothed = torch.as_tensor(GaussianSmooth(sigma=sigma)(torch.from_numpy(wide))).numpy()
        return np.asarray(smoothed[(slice(None), *[slice(edge, -edge)] * (values.ndim - 1))])


class Gamma(_Valued):
    """Changes the contrast by a power within the image's own range (`RandAdjustContrast` of MONAI)."""

    class Settings(ValueSettings):
        """Contrast.

        Args:
            low, high: Range of the exponent; below 1 brightens the middle, above 1 darkens it.
        """

        kind: Literal["gamma"] = "gamma"
        low: Annotated[float, Limits(ge=0.1, le=10)] = 0.7  # as nnU-Net
        high: Annotated[float, Limits(ge=0.1, le=10)] = 1.5  # as nnU-Net

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Gamma.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        gamma = draw.uniform(self.settings.low, self.settings.high)
        low, reach = values.min(), np.ptp(values)
        changed: Array = ((values - low) / (reach + np.float32(1e-7))) ** np.float32(gamma) * reach + low
        return changed


class Brightness(_Valued):
    """Multiplies all grey values by a number and adds another (`RandScaleIntensity`, `RandShiftIntensity` of MONAI)."""

    class Settings(ValueSettings):
        """Brightness.

        Args:
            gain: Grey values are multiplied by 1 plus a number from minus this to this.
            shift: A number from minus this to this is added, in grey values as the steps before leave them.
        """

        kind: Literal["brightness"] = "brightness"
        gain: Annotated[float, Limits(ge=0, le=1)] = 0.2  # as another lamp or another stain
        shift: Annotated[float, Limits(ge=0, le=1e4)] = 0.2  # a tenth of the usual range from -1 to 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Brightness.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        gain = 1 + draw.uniform(-self.settings.gain, self.settings.gain)
        changed: Array = values * np.float32(gain) + np.float32(draw.uniform(-self.settings.shift, self.settings.shift))
        return changed


class HistogramShift(_Valued):
    """Bends the grey scale by a rising line through random points (`RandHistogramShift` of MONAI)."""

    class Settings(ValueSettings):
        """A bent grey scale.

        Args:
            points: Points of the line, its two fixed ends among them.
        """

        kind: Literal["histogram-shift"] = "histogram-shift"
        points: Annotated[int, Limits(ge=3, le=64)] = 10  # as MONAI

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: HistogramShift.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        places = np.linspace(0, 1, self.settings.points)
        bent = places.copy()
        for index in range(1, len(places) - 1):
            bent[index] = draw.uniform(bent[index - 1], places[index + 1])
        low, reach = values.min(), np.ptp(values)
        if reach == 0:
            return values
        changed: Array = np.interp((values - low) / reach, places, bent).astype(np.float32) * reach + low
        return changed


class Cutout(_Valued):
    """Replaces boxes by the image's mean (`RandCoarseDropout` of MONAI; DeVries and Taylor 2017)."""

    class Settings(ValueSettings):
        """Missing regions.

        Args:
            holes: Number of boxes.
            share: Sides of a box, as a share of the image's sides.
        """

        kind: Literal["cutout"] = "cutout"
        holes: Annotated[int, Limits(ge=1, le=64)] = 1
        share: Annotated[float, Limits(gt=0, le=0.9)] = 0.25  # a sixteenth of a plane

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Cutout.Settings = settings

    def _changed(self, values: Array, padding: Bools | None, draw: Draw) -> Array:
        result, shape = values.copy(), values.shape[1:]
        fill = values.mean() if padding is None or padding.all() else values[~padding].mean()
        for place in draw.random((self.settings.holes, len(shape))):
            sides = [max(1, round(self.settings.share * side)) for side in shape]
            starts = [int(at * (side - hole + 1)) for at, side, hole in zip(place, shape, sides, strict=True)]
            box = tuple(slice(start, start + hole) for start, hole in zip(starts, sides, strict=True))
            result[(slice(None), *box)] = fill
        return result
