"""Grey values on a common scale; the formulas are those of MONAI's transforms, and tests hold them to those."""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.examples import Array, Bools, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, FieldName, Transform, check_fields, check_rising, on_measured

Intensity = Annotated[float, Limits(ge=-1e9, le=1e9)]
Percentile = Annotated[float, Limits(ge=0, le=100)]
LEAST_RANGE = 1e-6


class RangeSettings(Strict):
    """The range that the result has.

    Args:
        to_low, to_high: Values that the two ends of the range become.
        fields: Images that are changed; empty changes all.
    """

    to_low: Annotated[float, Limits(ge=-1e3, le=1e3)] = -1.0  # centred on zero, as the models expect
    to_high: Annotated[float, Limits(ge=-1e3, le=1e3)] = 1.0
    fields: tuple[FieldName, ...] = ()

    @model_validator(mode="after")
    def _result_has_a_range(self) -> Self:
        if self.to_high - self.to_low < LEAST_RANGE:
            raise ValueError("expected to_low below to_high")
        return self

    def range_of_images(self, low: float, high: float) -> tuple[float, float] | None:
        """Return the range if it is that of the image of most jobs, and not of other fields only."""
        return (low, high) if not self.fields or "image" in self.fields else None

    def between(self, values: Array, low: float, high: float, *, clip: bool) -> Array:
        """Return values with `low` and `high` mapped to the ends of the range."""
        scaled = (values - np.float32(low)) / np.float32(high - low)
        scaled = scaled * np.float32(self.to_high - self.to_low) + np.float32(self.to_low)
        return np.clip(scaled, np.float32(self.to_low), np.float32(self.to_high)) if clip else scaled


class _Scaling(Transform):
    settings: RangeSettings

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return on_measured(example, self.settings.fields, self._scaled)

    def _scaled(self, values: Array, padding: Bools | None) -> Array:
        raise NotImplementedError


class Rescale(_Scaling):
    """Maps grey values linearly from one range to another, without clipping (`ScaleIntensityRange` of MONAI)."""

    class Settings(RangeSettings):
        """A linear change of grey values.

        Args:
            low, high: Grey values that become ``to_low`` and ``to_high``.
        """

        kind: Literal["rescale"] = "rescale"
        low: Intensity = 0.0  # pictures are read as values from 0 to 1
        high: Intensity = 1.0

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high, LEAST_RANGE)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Rescale.Settings = settings

    @property
    def grey_range(self) -> tuple[float, float] | None:
        return self.settings.range_of_images(self.settings.low, self.settings.high)

    def _scaled(self, values: Array, padding: Bools | None) -> Array:
        return self.settings.between(values, self.settings.low, self.settings.high, clip=False)


class Window(_Scaling):
    """Cuts intensities off at a window's ends and maps the rest linearly (`ScaleIntensityRange` of MONAI with `clip`)."""

    measured: ClassVar[bool] = True

    class Settings(RangeSettings):
        """A window over the modality's own units.

        Args:
            low, high: Ends of the window, such as -160 and 240 HU for soft tissue.
        """

        kind: Literal["window"] = "window"
        low: Intensity
        high: Intensity

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high, LEAST_RANGE)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Window.Settings = settings

    @property
    def grey_range(self) -> tuple[float, float] | None:
        return self.settings.range_of_images(self.settings.low, self.settings.high)

    def _scaled(self, values: Array, padding: Bools | None) -> Array:
        return self.settings.between(values, self.settings.low, self.settings.high, clip=True)


class Percentiles(_Scaling):
    """Maps two percentiles of each image to the ends of a range (`ScaleIntensityRangePercentiles` of MONAI with `clip`)."""

    measured: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    class Settings(RangeSettings):
        """A range between two percentiles of the image itself.

        Args:
            low, high: Percentiles that become ``to_low`` and ``to_high``; values beyond are cut off.
            nonzero: Whether voxels of value 0, the background of skull-stripped images, are left out of the percentiles.
        """

        kind: Literal["percentiles"] = "percentiles"
        low: Percentile = 0.5  # a few bright vessels or metal must not set the scale
        high: Percentile = 99.5
        nonzero: bool = False

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high, LEAST_RANGE)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Percentiles.Settings = settings

    def _scaled(self, values: Array, padding: Bools | None) -> Array:
        counted = _counted(values, padding, nonzero=self.settings.nonzero)
        if not counted.size:
            return np.full_like(values, self.settings.to_low)
        low, high = np.percentile(counted, [self.settings.low, self.settings.high])
        if high - low < LEAST_RANGE:
            return np.full_like(values, self.settings.to_low)
        return self.settings.between(values, float(low), float(high), clip=True)


class Normalize(Transform):
    """Subtracts each image's mean and divides by its standard deviation (`NormalizeIntensity` of MONAI)."""

    measured: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    class Settings(Strict):
        """The z-score of each image by itself.

        Args:
            nonzero: Whether only voxels other than 0 are counted and changed, for images with the background removed.
            channel_wise: Whether each channel has its own mean and deviation.
            limit: Values beyond this many standard deviations are cut off; 0 cuts none.
            fields: Images that are changed; empty changes all.
        """

        kind: Literal["normalize"] = "normalize"
        nonzero: bool = False
        channel_wise: bool = True  # channels are often sequences with units of their own
        limit: Annotated[float, Limits(ge=0, le=100)] = 0.0
        fields: tuple[FieldName, ...] = ()

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return on_measured(example, self.settings.fields, self._scaled)

    def _scaled(self, values: Array, padding: Bools | None) -> Array:
        if self.settings.channel_wise:
            parts = [None] * len(values) if padding is None else padding
            return np.stack([self._one(*pair) for pair in zip(values, parts, strict=True)])
        return self._one(values, padding)

    def _one(self, values: Array, padding: Bools | None) -> Array:
        counted = _counted(values, padding, nonzero=self.settings.nonzero).astype(np.float64)
        if not counted.size:
            return values
        chosen = values != 0 if self.settings.nonzero else np.ones(values.shape, bool)
        result = np.array(values, dtype=np.float32)
        result[chosen] = (values[chosen].astype(np.float64) - counted.mean()) / (counted.std() or 1.0)
        if self.settings.limit:
            result = np.clip(result, -self.settings.limit, self.settings.limit)
        return result


def _counted(values: Array, padding: Bools | None, *, nonzero: bool) -> Array:
    chosen = values if padding is None else values[~padding]
    return chosen[chosen != 0] if nonzero else chosen.ravel()
