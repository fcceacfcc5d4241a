"""A small fully connected network for rows of a table, or for images as one row of values."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class MlpSettings(Strict):
    """Settings of the fully connected network.

    Args:
        layers: Widths of the layers between input and output.
    """

    layers: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=8)] = (
        32,
    )  # tables of hospitals are small


@with_settings(MlpSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network."""
    from salus.common.models import input_features

    modules: list[nn.Module] = [nn.Flatten()]
    before = input_features(task)
    for width in settings_of(task, MlpSettings).layers:
        modules += [nn.Linear(before, width), nn.LayerNorm(width), nn.ReLU()]
        before = width
    return nn.Sequential(*modules, nn.Linear(before, len(task.classes)))
