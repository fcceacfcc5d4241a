"""What all steps share that turn an image into a row of a table."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from salus.common.batch import Field, Spec
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Array, Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import LEAST_RANGE, Column, Intensity
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, FieldName, Transform, check_fields, check_rising

ROW = "features"


class RowSettings(Strict):
    """Which image becomes a row, and what happens to it.

    Args:
        intensity_low, intensity_high: Range in which intensities are counted; use the same as in the statistics.
        field: The image.
        keep_image: Whether a later step makes further columns of the image; they follow those of this step.
    """

    intensity_low: Intensity = 0.0
    intensity_high: Intensity = 65_535.0  # the largest 16-bit value
    field: FieldName = "image"
    keep_image: bool = False


class ToRow(Transform):
    """A step whose settings alone name the columns that it makes of each image, so the job need not list them.

    A job that lists some of them, with centres and scales of its own, gets those.
    """

    measured: ClassVar[bool] = True
    selective: ClassVar[bool] = True
    rows: ClassVar[bool] = True

    def __init__(self, settings: Any, task: TaskSettings) -> None:
        self.settings = settings
        if task.shape:
            raise JobError("expected no task.shape: this step makes a row.", remedy='Use kind = "tabular" or "svm".')
        check_range(settings)
        names = {column.name: place for place, column in enumerate(self.columns(settings))}
        wanted = [column.name for column in task.columns]
        if wanted and (settings.keep_image or not set(wanted) <= set(names)):
            unknown = next((name for name in wanted if name not in names), wanted[0])
            raise JobError(
                f"expected task.columns only of this step, such as {next(iter(names))!r}, got {unknown!r}.",
                remedy="Leave out task.columns; with several steps that make columns, none may be listed.",
            )
        self._places = [names[name] for name in wanted or names]

    @property
    def grey_range(self) -> tuple[float, float] | None:
        return self.settings.intensity_low, self.settings.intensity_high

    def row(self, example: Example) -> Array | None:
        """Return the numbers of the image, or None for one that cannot be used."""
        raise NotImplementedError

    def spec(self, given: Spec) -> Spec:
        check_fields((self.settings.field,), given)
        before = given[ROW].shape[0] if ROW in given else 0
        kept = {name: field for name, field in given.items() if self.settings.keep_image or not field.spatial}
        return {**kept, ROW: Field((before + len(self._places),))}

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        found = self.row(example)
        if found is None:
            raise UnreadableImage("no-features", "it holds no finite image")
        before = example[ROW] if ROW in example else np.zeros(0, np.float32)
        row = np.concatenate([before, found[self._places].astype(np.float32)])
        if self.settings.keep_image:
            return example.with_fields(**{ROW: row})
        kept = {name: array for name, array in example.fields.items() if name not in example.spatial}
        return replace(example, fields={**kept, ROW: row}, spatial=frozenset(), affine=None)


def check_range(settings: Any) -> None:
    """Raise JobError unless the intensities of settings are a range."""
    try:
        check_rising(settings.intensity_low, settings.intensity_high, LEAST_RANGE)
    except ValueError as problem:
        raise JobError(f"{problem}, as intensities", remedy="Correct intensity_low or intensity_high.") from None


def scaled_columns(ranges: Sequence[tuple[str, float, float]]) -> tuple[Column, ...]:
    """Return columns of these names and usual ranges; models cut a column off at four scales beside its centre."""
    return tuple(Column(name=name, centre=(low + high) / 2, scale=(high - low) / 8) for name, low, high in ranges)
