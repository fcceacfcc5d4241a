"""Random Fourier features of a Gaussian kernel, then one linear layer: a kernel machine of fixed size.

Rahimi and Recht 2007 (NeurIPS): the mean over random frequencies of ``2 cos(w x + b) cos(w y + b)`` is the kernel
``exp(-|x - y|^2 / (2 width^2))``. Frequencies follow from the seed, so all sites have the same; only the last layer is trained.
"""

import math
from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class RandomFeatureSettings(Strict):
    """Settings of random Fourier features.

    Args:
        random_features: Number of cosines; the error of the kernel falls with its square root.
        kernel_width: Distance at which the kernel is 0.61, in units of the square root of the number of inputs.
    """

    random_features: Annotated[int, Field(ge=8, le=8192)] = 1024
    kernel_width: Annotated[float, Field(ge=1e-2, le=1e2)] = 1.0  # the usual distance of standardised rows


@with_settings(RandomFeatureSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; its last layer starts at zero."""
    from salus.common.models import input_features

    own = settings_of(task, RandomFeatureSettings)
    return RandomFeatures(input_features(task), len(task.classes), own)


class RandomFeatures(nn.Module):
    """Fixed cosines of random projections, then a linear layer.

    Args:
        inputs: numbers of an item.
    """

    def __init__(self, inputs: int, outputs: int, own: RandomFeatureSettings) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, own.random_features)
        self.head = nn.Linear(own.random_features, outputs)
        with torch.no_grad():
            self.project.weight.normal_(0.0, 1.0 / (own.kernel_width * math.sqrt(inputs)))
            self.project.bias.uniform_(0.0, 2 * math.pi)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.project.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``[items, outputs]``."""
        scores: torch.Tensor = self.head(math.sqrt(2.0) * torch.cos(self.project(x.flatten(1))))
        return scores
