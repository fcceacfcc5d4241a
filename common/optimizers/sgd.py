"""Stochastic gradient descent with momentum, as torch defines it: ``v = m v + g``, ``w = w - lr v``."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from salus.common.job import Training
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

if TYPE_CHECKING:
    import torch


class Settings(Strict):
    """Settings of `sgd`.

    Args:
        momentum: Momentum of the sites' optimizer.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # the usual value


@with_settings(Settings)
def build(parameters: Iterable["torch.nn.Parameter"], training: Training) -> "torch.optim.Optimizer":
    """Return the optimizer."""
    import torch

    momentum = settings_of(training, Settings).momentum
    return torch.optim.SGD(parameters, training.learning_rate, momentum=momentum, weight_decay=training.weight_decay)
