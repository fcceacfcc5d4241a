"""Optimizers of the sites. To add one: `common/optimizers/<name>.py` with a function, one test, and one line below.

The function takes the model's trainable parameters and the section ``[training]``, and returns a fresh torch optimizer. Its
own settings are declared with `with_settings`. A site adds its own through the entry-point group ``salus.optimizers``.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salus.common.errors import JobError
from salus.common.job import Training
from salus.common.registry import Registry

if TYPE_CHECKING:  # a job is parsed without loading torch
    import torch

OPTIMIZERS = Registry(
    "optimizer",
    "salus.optimizers",
    {
        "adam": "salus.common.optimizers.adam:build",
        "adamw": "salus.common.optimizers.adamw:build",
        "sgd": "salus.common.optimizers.sgd:build",
    },
)


def make_optimizer(parameters: Iterable["torch.nn.Parameter"], training: Training) -> "torch.optim.Optimizer":
    """Return a fresh optimizer; its state never outlives a round, so a site may leave and come back.

    Raises:
        JobError: an unknown optimizer.
    """
    optimizer: torch.optim.Optimizer = OPTIMIZERS.get(training.optimizer, error=JobError)(parameters, training)
    return optimizer
