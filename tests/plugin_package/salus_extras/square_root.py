"""A transform: the square root of grey values from 0 to 1."""

from typing import Literal

import numpy as np

from salus.common.batch import Spec
from salus.common.examples import Array, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, Transform, on_images


class SquareRoot(Transform):
    """Brightens dark voxels."""

    class Settings(Strict):
        """Settings of `square-root`.

        Args:
            kind: Name of the transform.
            strength: Share of the effect.
        """

        kind: Literal["square-root"] = "square-root"
        strength: float = 1.0

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self._strength = settings.strength

    def spec(self, given: Spec) -> Spec:
        return given

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return on_images(example, (), self._brightened)

    def _brightened(self, values: Array) -> Array:
        rooted = np.sqrt(np.clip(values, 0.0, 1.0))
        mixed: Array = (self._strength * rooted + (1 - self._strength) * values).astype(np.float32)
        return mixed
