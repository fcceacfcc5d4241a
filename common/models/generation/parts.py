"""Parts of the networks for generation; 2-D and 3-D, with GroupNorm."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import Widths, convolution
from salus.common.models.norms import group_norm
from salus.common.models.outputs import cropped, dimensions
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of
from salus.common.strict import Strict

MOST_WEIGHTS = 2**26  # of the linear layer between an image and its code: 256 MB
S = TypeVar("S", bound=Strict)


class CodeSettings(Strict):
    """Settings of a network between an image and a short code.

    Args:
        widths: Channels of each level, from the finest to the coarsest; each level halves the image.
    """

    widths: Annotated[Widths, Field(max_length=5)] = (32, 64)  # to a quarter of the side: enough for small images


def own_task(task: TaskSettings, settings: type[S], kind: str) -> S:
    """Return the settings of a generating task; raises JobError for another kind of task."""
    if not isinstance(task, settings):
        raise JobError(
            f"The model {task.model!r} generates images, which the task {task.kind!r} does not.",
            remedy=f'Use it with task.kind = "{kind}", or choose another model.',
        )
    return settings_of(task, settings)


def coarsest(shape: Sequence[int], levels: int) -> list[int]:
    """Return the sides of an image that is halved so often, rounded up."""
    return [-(-side // 2**levels) for side in shape]


def _checked(task: TaskSettings, widths: Sequence[int], numbers: int) -> list[int]:
    sides = coarsest(task.shape, len(widths))
    if math.prod(sides) * widths[-1] * numbers > MOST_WEIGHTS:
        raise JobError(
            f"The model {task.model!r} would need more than {MOST_WEIGHTS} weights between its code and its image.",
            remedy="Choose a smaller task.shape, a smaller latent_size or more levels in task.widths.",
        )
    return sides


class Encoder(nn.Sequential):
    """An image and its class, ``[items, channels + classes, *shape]``, to numbers ``[items, outputs]``.

    Raises:
        JobError: more than `MOST_WEIGHTS` weights.
    """

    def __init__(self, task: TaskSettings, widths: Sequence[int], outputs: int) -> None:
        spatial, sides = dimensions(task), _checked(task, widths, outputs)
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise([task.channels + len(task.classes), *widths]):
            layers += [convolution(spatial, before, width, 3, stride=2), group_norm(width), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(math.prod(sides) * widths[-1], outputs))


class Decoder(nn.Module):
    """A code and its class, ``[items, latent_size + classes]``, to an image ``[items, channels, *shape]``.

    Raises:
        JobError: more than `MOST_WEIGHTS` weights.
    """

    def __init__(self, task: TaskSettings, widths: Sequence[int], latent_size: int) -> None:
        super().__init__()
        spatial, given = dimensions(task), latent_size + len(task.classes)
        sides = _checked(task, widths, given)
        self.shape = tuple(task.shape)
        first = [nn.Linear(given, widths[-1] * math.prod(sides)), nn.Unflatten(1, (widths[-1], *sides))]
        layers: list[nn.Module] = [*first, group_norm(widths[-1]), nn.ReLU()]
        for before, width in itertools.pairwise([*reversed(widths), widths[0]]):
            # A convolution after the enlargement leaves no chequered pattern (Odena et al. 2016).
            layers += [
                nn.Upsample(scale_factor=2),
                convolution(spatial, before, width, 3),
                group_norm(width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, convolution(spatial, widths[0], task.channels, 3))

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Return the image."""
        return cropped(self.layers(code), self.shape)
