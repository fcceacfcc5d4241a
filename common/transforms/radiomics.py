"""An image as a row of named radiomics features."""

from typing import Annotated, Literal

from pydantic import Field as Limits

from salus.common.examples import Array, Example
from salus.common.features.radiomics import check_installed, radiomics_of, ranges_of
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
from salus.common.transforms.rows import RowSettings, ToRow, scaled_columns

Distance = Annotated[int, Limits(ge=1, le=64)]


class Radiomics(ToRow):
    """Replaces an image by intensity statistics, texture and gradients, see `features.radiomics`."""

    class Settings(RowSettings):
        """Radiomics features of an image.

        Args:
            bins: Grey levels into which the range of intensities is divided for histogram and texture.
            distances: Distances, in pixels, of the pairs that are compared for texture.
        """

        kind: Literal["radiomics"] = "radiomics"
        bins: Annotated[int, Limits(ge=2, le=256)] = 32  # a usual number; a fixed one makes images comparable
        distances: Annotated[tuple[Distance, ...], Limits(min_length=1, max_length=4)] = (1, 2, 4)

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        super().__init__(settings, task)
        check_installed()

    @classmethod
    def columns(cls, settings: Settings) -> tuple[Column, ...]:
        ranges = ranges_of(settings.bins, settings.distances)
        return scaled_columns([(name, low, high) for name, (low, high) in ranges.items()])

    def row(self, example: Example) -> Array | None:
        own = self.settings
        return radiomics_of(
            example[own.field], own.intensity_low, own.intensity_high, own.bins, own.distances,
            example.padding_of(own.field),
        )  # fmt: skip
