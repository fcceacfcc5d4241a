"""The interface of a strategy: two functions with an explicit state."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from salus.common.job import Job
from salus.common.vectors import FloatVector

State = Mapping[str, npt.NDArray[np.float64]]
STEP_LEARNING_RATE = 0.3  # for noised gradients of norm about 1 with momentum 0.9; see the table in docs/results.md


class Strategy(Protocol):
    """A server optimiser.

    >>> from salus.common.job import Job, JobHead, Privacy, TaskSettings
    >>> from salus.server.strategies.fedavg import FedAvg
    >>> task = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(8, 8))
    >>> fedavg = FedAvg(Job(job=JobHead(name="j", rounds=1), task=task, privacy=Privacy(noise="none")))
    >>> state = fedavg.init(2)
    >>> state, model = fedavg.apply(state, np.zeros(2, np.float32), np.array([0.5, -1.0]))
    >>> model.tolist()
    [0.5, -1.0]
    """

    def init(self, parameters: int) -> State:
        """Return the state before the first round, for a model with this many parameters."""

    def apply(
        self, state: State, model: FloatVector, mean_update: npt.NDArray[np.float64]
    ) -> tuple[State, FloatVector]:
        """Return the next state and the next global model."""


def learning_rate_of(job: Job) -> float:
    """Return the job's learning rate at the server, or the default for its kind of rounds."""
    return job.aggregation.server_learning_rate or (STEP_LEARNING_RATE if job.one_step else 1.0)
