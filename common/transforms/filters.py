"""What all steps share that change the grey values of one image channel after the other and keep its grid."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field as Limits

from salus.common.batch import Spec
from salus.common.examples import Array, Bools, Example
from salus.common.extras import required
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, FieldName, Transform, check_fields, is_image

Channel = npt.NDArray[np.float64]
Radius = Annotated[int, Limits(ge=1, le=10)]  # in voxels; the time of a filter grows with its cube


class FilterSettings(Strict):
    """What every filter can be told.

    Args:
        fields: Images that are changed; empty changes all.
    """

    fields: tuple[FieldName, ...] = ()


class Filter(Transform):
    """A step that gives each channel of an image other grey values on the same grid.

    Padding of a file is filled with the smallest measured value before and put back afterwards, so that it does not leak into
    the image.
    """

    settings: FilterSettings
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of the extra ``processing``; a step without them is refused when its job is checked."""

    def __init__(self, settings: Any, task: TaskSettings) -> None:
        self.settings = settings
        self._load()

    def _load(self) -> None:
        """Import the modules of the extra; raises ConfigError where one is missing."""
        kind = getattr(self.settings, "kind", type(self).__name__)
        self.modules = [required(name, extra="processing", what=f'The transform "{kind}"') for name in self.needs]

    def spec(self, given: Spec) -> Spec:
        return check_fields(self.settings.fields, given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        """Return the example with filtered images, float32."""
        changed = {
            name: self._image(array, example.padding_of(name), example.spacing_mm)
            for name, array in example.fields.items()
            if name in example.spatial
            and is_image(array)
            and (not self.settings.fields or name in self.settings.fields)
        }
        return example.with_fields(**changed)

    def _image(self, values: Array, padding: Bools | None, spacing_mm: tuple[float, ...]) -> Array:
        filled = values.astype(np.float64)
        if padding is not None:
            counted = filled[~padding]
            filled = np.where(padding, counted.min() if counted.size else 0.0, filled)
        sides = values.ndim - 1
        spacing = spacing_mm[-sides:] if len(spacing_mm) >= sides else ()
        found = np.stack([self.filtered(channel, spacing) for channel in filled])
        if padding is not None:
            found = np.where(padding, values, found)
        return found.astype(np.float32)

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        """Return one channel's new values.

        Args:
            channel: ``[*spatial]``, two or three sides.
            spacing_mm: of its axes; empty where it is unknown.
        """
        raise NotImplementedError


def by_slice(channel: Channel, change: Callable[[Channel], Channel]) -> Channel:
    """Return an image changed slice by slice, for methods that exist in two dimensions only."""
    return change(channel) if channel.ndim == 2 else np.stack([change(plane) for plane in channel])


def on_unit_range(channel: Channel, change: Callable[[Channel], Channel]) -> Channel:
    """Return an image changed by a method that wants values from 0 to 1, back in its own range.

    An image of a single grey value is returned unchanged.
    """
    low, high = float(channel.min()), float(channel.max())
    if not high > low:
        return channel
    return change((channel - low) / (high - low)) * (high - low) + low
