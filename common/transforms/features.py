"""An image as a row of nine intensity features, with or without the effects of its scanner."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Field, Spec
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Array, Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import LEAST_RANGE, Intensity
from salus.common.strict import Strict
from salus.common.sums.combat import Batch, CombatModel
from salus.common.sums.features import FEATURES, image_features
from salus.common.transforms.base import Draw, FieldName, Transform, check_fields, check_rising
from salus.common.transforms.rows import ROW
from salus.common.vocabulary import OTHER


class FeatureSettings(Strict):
    """How features are counted.

    Args:
        intensity_low, intensity_high: Range in which intensities are counted; use the same as in the statistics.
        field: The image.
    """

    intensity_low: Intensity = 0.0
    intensity_high: Intensity = 65_535.0  # the largest 16-bit value
    field: FieldName = "image"

    @model_validator(mode="after")
    def _some_range(self) -> Self:
        check_rising(self.intensity_low, self.intensity_high, LEAST_RANGE)
        return self


class Features(Transform):
    """Replaces an image by the columns of the job, each one of its nine intensity features."""

    measured: ClassVar[bool] = True
    selective: ClassVar[bool] = True
    rows: ClassVar[bool] = True

    class Settings(FeatureSettings):
        """Intensity features of an image."""

        kind: Literal["features"] = "features"

    def __init__(self, settings: FeatureSettings, task: TaskSettings) -> None:
        self.settings = settings
        names = [column.name for column in task.columns]
        wrong = [name for name in names if name not in FEATURES]
        if task.shape or not names or wrong:
            raise JobError(
                f"expected no task.shape and only task.columns from {', '.join(FEATURES)}"
                + (f", got {wrong[0]!r}." if wrong else "."),
                remedy='Use kind = "tabular" with such columns.',
            )
        self._places = [FEATURES.index(name) for name in names]

    @property
    def grey_range(self) -> tuple[float, float] | None:
        return self.settings.intensity_low, self.settings.intensity_high

    def spec(self, given: Spec) -> Spec:
        check_fields((self.settings.field,), given)
        kept = {name: field for name, field in given.items() if not field.spatial}
        return {**kept, ROW: Field((len(self._places),))}

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return self._with_row(example, self._features(example))

    def _features(self, example: Example) -> Array:
        settings = self.settings
        padding = example.padding_of(settings.field)
        found = image_features(example[settings.field], settings.intensity_low, settings.intensity_high, padding)
        if found is None:
            raise UnreadableImage("no-features", "it holds no finite image")
        return found

    def _with_row(self, example: Example, features: Array) -> Example:
        kept = {name: array for name, array in example.fields.items() if name not in example.spatial}
        row = features[self._places].astype(np.float32)
        return replace(example, fields={**kept, ROW: row}, spatial=frozenset(), affine=None)


class Combat(Features):
    """Features without the effect of the image's batch, one vendor at one site (Johnson et al. 2007).

    The common model is the job's; the effect of a batch comes from the site's training images and never leaves the site. With
    noise it is refused: what it does to one image depends on the site's other patients.
    """

    fitted: ClassVar[bool] = True

    class Settings(FeatureSettings):
        """ComBat's common model.

        Args:
            constants: Intercepts, scales and effects of the classes, from statistics of kind `combat`.
        """

        kind: Literal["combat"] = "combat"
        constants: Annotated[tuple[Annotated[float, Limits(ge=-1e6, le=1e6)], ...], Limits(max_length=100_000)]

    def __init__(self, settings: Settings, task: TaskSettings, batches: dict[str, Batch] | None = None) -> None:
        super().__init__(settings, task)
        count = len(FEATURES) * (1 + len(task.classes))
        if len(settings.constants) != count:
            raise JobError(
                f"expected {count} constants for {len(task.classes)} classes, got {len(settings.constants)}.",
                remedy="Copy them from the result of statistics of kind 'combat' with the same classes.",
            )
        self._model = CombatModel.of(settings.constants)
        self._constants, self._task, self._batches = settings, task, batches or {}

    def learned(self, known: Sequence[tuple[Example, int]]) -> "Combat":
        """Return the transform with the effects of this site's batches.

        Args:
            known: training images before this step, with their class numbers.
        """
        rows: dict[str, list[tuple[Array, int]]] = defaultdict(list)
        for example, target in known:
            rows[example.facts.get("vendor", OTHER)].append((self._features(example), target))
        batches = {
            vendor: self._model.batch(np.stack([row for row, _ in mine]), [target for _, target in mine])
            for vendor, mine in rows.items()
        }
        return Combat(self._constants, self._task, batches)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        batch = self._batches.get(example.facts.get("vendor", OTHER))
        if batch is None:
            raise UnreadableImage("no-batch", "no training image of this site is from its vendor")
        return self._with_row(example, self._model.adjusted(self._features(example)[None], batch)[0])
