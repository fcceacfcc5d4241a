"""The interface of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from salus.common.batch import Batch, Spec
from salus.common.estimates import Metric
from salus.common.examples import Example
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.strict import Strict
from salus.common.transforms.chain import Chain

Totals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One kind of optimiser step; most tasks have one, a GAN has one for each of its networks.

    Args:
        name: for error messages and for `Task.losses`.
        parameters: prefix of the names of the parameters that this step changes; empty for all.
        data: whether its losses read the patients' data. A step that reads none is neither clipped, nor noised, nor charged.
    """

    name: str = "train"
    parameters: str = ""
    data: bool = True


ONE_STEP = (Step(),)
LARGEST_OUTPUT = 1e30


@dataclass(frozen=True)
class Said:
    """What a model says about one image or row, for people.

    Args:
        label: as it would be in a label file: a class, several findings separated by ``|``, a grade or a number.
        probabilities: by class, 0 .. 1; empty for a number.
        values: by name, for a number.
    """

    label: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Saying(Protocol):
    """A task whose predictions are labels or numbers."""

    def said(self, outputs: torch.Tensor) -> Said:
        """Return what the outputs of one item say, without their first dimension."""


class Task(Protocol):
    """A learning task, built from the settings of a job.

    Guarantees that every implementation must give, because only sums leave a site:

    - item i of `losses` depends on item i of the batch only, so a batch's loss is never a mean, a rank or a statistic of it;
    - each entry of `rows` is between 0 and 1, and row i depends on item i only;
    - each row of `private_rows` has a Euclidean norm of at most 1.

    Randomness that a loss needs is a field of the batch; `losses` itself draws nothing.
    """

    Settings: ClassVar[type[Strict]]
    """The task's own keys of the section ``task``, see `common.registry`."""
    settings: TaskSettings
    spec: Spec
    """The fields of one item, which `prepare` makes; random batches of it are used for checks, see `common.batch`."""
    chain: Chain
    """The job's transforms, or the task's own where the job has none; `prepare` takes what they give."""
    steps: Sequence[Step]
    """What a site does in turn with each batch; at least one."""
    headline: Sequence[str]
    """Names of the metrics that the console, the report and the card show first."""

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return what a label of the catalogue means, as the field ``label``; None if it means nothing to the task.

        Not asked of tasks whose `spec` has no such field.
        """

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the fields of `spec` that an example has, as tensors of one item; without an annotation only the inputs.

        Args:
            example: after the transforms of `chain`.

        Raises:
            DataError: the example does not fit the job.
        """

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's loss in a step, ``[items]``.

        The model, or parts of it by attribute, is called with a tensor's first dimension ``items`` or a multiple of it, the
        entries of one item behind each other.
        """

    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        """Return the model's outputs for the inputs of a batch; no annotation is needed."""

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`; depends on the settings only."""

    def rows(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return each item's part of the additive statistics, float64 ``[items, statistics_size]`` on the CPU.

        Args:
            outputs: of `infer`.
        """

    @property
    def private_statistics_size(self) -> int:
        """Length of a row of `private_rows`."""

    def private_rows(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return few numbers per item, float64 ``[items, private_statistics_size]``, whose noisy sum is still useful."""

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of noisy sums of `private_rows`, each with its standard error and never clipped.

        Args:
            noise_sd: standard deviation of the noise in each entry of `totals`.
        """

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the figures of a report from noisy sums of `private_rows`."""

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics that `private_metrics` would give for a typical model, to predict how exact they will be.

        Args:
            patients: validation patients at all sites together.
        """

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the metrics of summed rows; empty without items."""

    def figures(self, totals: Totals) -> Figures:
        """Return the figures of a report from summed rows."""


def full(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs of a pass in half precision in single precision; others as they are."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def finite(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs on the CPU in double precision, NaN as 0 and infinities as `LARGEST_OUTPUT`.

    So a diverged model has bad metrics, instead of a row without meaning for which a site would have to leave the sum.
    """
    plain = outputs.detach().double().cpu()
    return torch.nan_to_num(plain, 0.0, LARGEST_OUTPUT, -LARGEST_OUTPUT)
