"""The interface of a task."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from salus.common.estimates import Metric
from salus.common.figures import Figures
from salus.common.job import TaskSettings

FloatArray = npt.NDArray[np.float32]
Totals = npt.NDArray[np.float64]


class Task(Protocol):
    """A learning task, built from the settings of a job.

    Guarantees that every implementation must give, because only sums leave a site:

    - `loss` of a batch is the mean of the losses of its items;
    - `statistics` is additive over items, and each item adds between 0 and 1 to every entry;
    - `private_statistics` of one item has a Euclidean norm of at most 1.
    """

    settings: TaskSettings

    def prepare(self, values: FloatArray) -> torch.Tensor:
        """Return the model's input for one sample: ``[channels, *shape]`` for images, ``[features]`` for a table."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over a batch, a scalar."""

    @property
    def statistics_size(self) -> int:
        """Length of the vector that `statistics` returns; depends on the settings only."""

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> Totals:
        """Return the additive statistics of a batch, float64, from which `metrics` computes everything."""

    @property
    def private_statistics_size(self) -> int:
        """Length of one row of `private_statistics`."""

    def private_statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return few numbers per item, float64 ``[batch, private_statistics_size]``, whose noisy sum is still useful."""

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of noisy sums of `private_statistics`, each with its standard error and never clipped.

        Args:
            noise_sd: standard deviation of the noise in each entry of `totals`.
        """

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the figures of a report from noisy sums of `private_statistics`."""

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics that `private_metrics` would give for a typical model, to predict how exact they will be.

        Args:
            patients: validation patients at all sites together.
        """

    def example(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random inputs and targets of the job's shapes, always the same, for checks that must not read data."""

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the metrics of summed statistics; empty without items."""

    def figures(self, totals: Totals) -> Figures:
        """Return the figures of a report from summed statistics."""
