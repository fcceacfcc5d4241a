"""The interface of a transform, and what all of them share.

A field of an example is treated by its kind: floating-point spatial fields are images, integer spatial fields are masks of
class numbers, and all other fields pass through unchanged.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from pydantic import Field as Limits

from salus.common.batch import Field, Spec
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Array, Bools, Example
from salus.common.job import MAX_INPUT_NUMBERS, TaskSettings
from salus.common.job_statistics import Column
from salus.common.strict import Strict

UNKNOWN = -1  # a side that depends on the image
MAX_VALUES = 2**28  # of one field on the way through a chain, all channels together: 1 GB
MAX_SIDE = 4096
Draw = np.random.Generator
Side = Annotated[int, Limits(ge=1, le=MAX_SIDE)]
Size = Annotated[tuple[Side, ...], Limits(max_length=3)]
Share = Annotated[float, Limits(ge=0, le=1)]
FieldName = Annotated[str, Limits(min_length=1, max_length=64)]


class Transform:
    """One step between a stored image and what a task trains on, built as ``Kind(settings, task_settings)``.

    Guarantees that every implementation must give:

    - the result depends on the example, the settings and `draw` only; no global random state is read or changed;
    - `spec` foretells the shapes and types of every result;
    - where the grid changes, the affine is updated, so that every voxel keeps its place in the patient.

    Attributes:
        Settings: the transform's keys of a ``[[task.transforms]]`` entry, `kind` among them.
        random: whether the result depends on `draw`; such a step is used in training only.
        measured: whether the step needs intensities in the modality's own units rather than grey values from 0 to 1.
        selective: whether some images cannot be used with this step, so that its settings decide who takes part in a sum.
        alike: whether the step acts on every image in the same way or by chance, whatever the image shows and whatever its size,
            so that two jobs without noise may differ in it, see `sums.questions`.
        rescales: whether grey values have a scale of the step's own afterwards, whatever scale they had before.
        rows: whether the step turns an image into a row of a table.
        fitted: whether the step depends on the site's other images; see `Fitted`.
        version: raised when the same settings give other values than before; part of the key of cached tensors.
    """

    Settings: ClassVar[type[Strict]]
    random: ClassVar[bool] = False
    measured: ClassVar[bool] = False
    selective: ClassVar[bool] = False
    alike: ClassVar[bool] = False
    rescales: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    fitted: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @classmethod
    def columns(cls, settings: Any) -> tuple[Column, ...]:
        """Return the columns that the step makes of each image, where its settings name them; else the job lists them."""
        return ()

    @property
    def grey_range(self) -> tuple[float, float] | None:
        """The grey values between which the step tells images apart, where its settings fix them."""
        return None

    def spec(self, given: Spec) -> Spec:
        """Return the fields after this step; sides that depend on the image are -1.

        Raises:
            JobError: the step cannot work on such fields.
        """
        sides_of(given)
        return given

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        """Return the transformed example.

        Args:
            draw: source of all randomness; None is allowed if `random` is false.

        Raises:
            UnreadableImage: the example lacks what the step needs, such as a position in the patient.
        """
        raise NotImplementedError


@runtime_checkable
class Invertible(Protocol):
    """A transform of the grid that can be undone, so that a prediction fits the original image."""

    def inverse(self, example: Example, original: Example) -> Example:
        """Return the spatial fields on the grid that `original` had before this step.

        Args:
            example: fields on the grid after the step, such as a predicted mask or probabilities.
            original: what the step was applied to.
        """


@runtime_checkable
class Fitted(Protocol):
    """A transform that depends on the site's other images; it is refused with noise, and its results are not cached."""

    def learned(self, known: Sequence[tuple[Example, int]]) -> Transform:
        """Return the transform as it is at this site.

        Args:
            known: the site's training images as they are before this step, with their class numbers.
        """


def sides_of(spec: Spec) -> tuple[int, ...]:
    """Return the sides of the common grid of all spatial fields.

    Raises:
        JobError: there is no spatial field.
    """
    for field in spec.values():
        if field.spatial:
            return field.shape[1:]
    raise JobError("Expected images, got a table.", remedy="Remove the step, or use a task on images.")


def with_sides(spec: Spec, sides: tuple[int, ...]) -> dict[str, Field]:
    """Return the spec with these sides for all spatial fields."""
    return {
        name: Field((field.shape[0], *sides), field.dtype, field.low, field.high, spatial=True)
        if field.spatial
        else field
        for name, field in spec.items()
    }


def grid_shape(example: Example) -> tuple[int, ...]:
    """Return the sides of the common grid of an example.

    Raises:
        UnreadableImage: no spatial field, or fields of different sides.
    """
    shapes = {example[name].shape[1:] for name in example.spatial}
    if len(shapes) != 1:
        raise UnreadableImage("mask-of-another-grid", "its image and annotations do not share one grid")
    return tuple(shapes.pop())


def is_image(array: Array) -> bool:
    """Return whether a spatial field holds intensities rather than class numbers."""
    return bool(np.issubdtype(array.dtype, np.floating))


def size_for(settings_size: tuple[int, ...], task: TaskSettings, given: Spec) -> tuple[int, ...]:
    """Return the size of a step, by default the task's shape, after a check against the dimensions of the fields.

    Raises:
        JobError: another number of sides, or more voxels than a sample of a job may have.
    """
    size, dims = settings_size or task.shape, len(sides_of(given))
    if len(size) != dims:
        raise JobError(f"expected a size of {dims} sides, got {list(size)}.", remedy="Correct size, or task.shape.")
    if math.prod(size) * task.channels > MAX_INPUT_NUMBERS:
        raise JobError(
            f"expected a size of at most {MAX_INPUT_NUMBERS} numbers, all channels together, got {list(size)}.",
            remedy="Lower size.",
        )
    return size


def on_images(
    example: Example, names: tuple[str, ...], change: Callable[[Array], Array], *, every: bool = False
) -> Example:
    """Return the example with `change` applied to its images, float32.

    Args:
        names: only these; empty means all.
        every: also the fields that are not spatial.
    """
    return on_measured(example, names, lambda values, padding: change(values), every=every)


def on_measured(
    example: Example, names: tuple[str, ...], change: Callable[[Array, Bools | None], Array], *, every: bool = False
) -> Example:
    """Do as `on_images` for a change that also gets which values are padding, see `Example.padding_of`."""
    changed: Mapping[str, Array] = {
        name: change(array, example.padding_of(name)).astype(np.float32)
        for name, array in example.fields.items()
        if (every or name in example.spatial) and is_image(array) and (not names or name in names)
    }
    return example.with_fields(**changed)


def check_fields(names: tuple[str, ...], given: Spec) -> Spec:
    """Return the spec unchanged after checking that these names are images of it.

    Raises:
        JobError: a name is not that of an image.
    """
    sides_of(given)
    images = [name for name, field in given.items() if field.spatial and field.dtype == "float32"]
    for name in names:
        if name not in images:
            raise JobError(f"expected fields from {', '.join(images)}, got {name!r}.", remedy="Correct the name.")
    return given


def check_rising(low: float, high: float, least: float = 0.0) -> None:
    """Raise ValueError unless `high` is at least this much above `low`; for the validators of settings."""
    if high - low < least:
        raise ValueError("expected low below high" if least else "expected low of at most high")
