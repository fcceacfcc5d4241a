"""Intensities of many scanners on one scale, with public constants from statistics over all sites.

Each image is treated by itself, so a patient's part in training with noise stays bounded.
"""

import itertools
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.errors import UnreadableImage
from salus.common.examples import Array, Bools, Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import Intensity, Label, Scale
from salus.common.sums.nyul import PERCENTILES, to_standard_scale
from salus.common.transforms.base import Draw, Share, Transform, check_fields, on_images, on_measured
from salus.common.transforms.intensity import RangeSettings
from salus.common.vocabulary import OTHER, VENDORS, check_words

Z_REACH = 4.0  # this many scales on both sides of the centre lie within the range
EVERYONE = "ALL"


class Nyul(Transform):
    """Maps each image's percentiles to the landmarks of a standard scale (Nyul and Udupa 1999)."""

    measured: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    class Settings(RangeSettings):
        """Nyul's standard scale.

        Args:
            landmarks: The 11 landmarks of the standard scale, from 0 to 1, in rising order, from statistics of kind `nyul`.
        """

        kind: Literal["nyul"] = "nyul"
        landmarks: Annotated[tuple[Share, ...], Limits(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]

        @model_validator(mode="after")
        def _landmarks_rise(self) -> Self:
            marks = self.landmarks
            if any(a > b for a, b in itertools.pairwise(marks)) or marks[0] >= marks[-1]:
                raise ValueError("expected rising landmarks")
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return on_measured(example, self.settings.fields, self._standard)

    def _standard(self, values: Array, padding: Bools | None) -> Array:
        scaled = to_standard_scale(values.astype(np.float32), self.settings.landmarks, padding)
        return self.settings.between(scaled, 0.0, 1.0, clip=False)


class ZScore(Transform):
    """Subtracts the centre and divides by the scale of the image's vendor."""

    measured: ClassVar[bool] = True
    rescales: ClassVar[bool] = True
    selective: ClassVar[bool] = True

    class Settings(RangeSettings):
        """Centre and scale of each vendor; four scales on both sides of the centre become ``to_low`` and ``to_high``.

        Args:
            groups: A list of vendor (or `ALL`), centre and scale, in intensity units, from statistics of kind `quantiles`.
        """

        kind: Literal["zscore"] = "zscore"
        groups: Annotated[tuple[tuple[Label, Intensity, Scale], ...], Limits(min_length=1, max_length=64)]

        @model_validator(mode="after")
        def _known_vendors(self) -> Self:
            check_words([vendor for vendor, _, _ in self.groups], {*VENDORS, OTHER, EVERYONE}, "the vendors of groups")
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings
        self._scales = {vendor: (centre, scale) for vendor, centre, scale in settings.groups}

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        found = self._scales.get(example.facts.get("vendor", OTHER)) or self._scales.get(EVERYONE)
        if found is None:
            raise UnreadableImage("no-scale", "the job has no scale for this image's vendor")
        centre, scale = found
        reach = Z_REACH * scale
        return on_images(
            example,
            self.settings.fields,
            lambda values: self.settings.between(values, centre - reach, centre + reach, clip=True),
        )
