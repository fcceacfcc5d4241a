"""FedAvg with momentum at the server (Hsu, Qi, Brown 2019, arXiv 1909.06335), for updates that are single noisy steps.

``velocity = momentum * velocity + mean_update``; ``model + learning_rate(round) * velocity``. With linear decay the
learning rate falls in a straight line from its first value to nothing after the last round.
"""

import numpy as np
import numpy.typing as npt

from salus.common.job import Job
from salus.common.vectors import FloatVector
from salus.server.strategies.base import State


class FedAvgM:
    """Momentum over the mean updates of all rounds; its state is the velocity and the number of rounds done."""

    def __init__(self, job: Job) -> None:
        self._settings, self._rounds = job.aggregation, job.job.rounds

    def init(self, parameters: int) -> State:
        return {"velocity": np.zeros(parameters), "rounds": np.zeros(1)}

    def apply(
        self, state: State, model: FloatVector, mean_update: npt.NDArray[np.float64]
    ) -> tuple[State, FloatVector]:
        done = float(state["rounds"][0])
        rate = self._settings.server_learning_rate
        if self._settings.server_decay == "linear":
            rate *= max(0.0, 1.0 - done / self._rounds)
        velocity = self._settings.server_momentum * state["velocity"] + mean_update
        return {"velocity": velocity, "rounds": np.array([done + 1])}, (model + rate * velocity).astype(np.float32)
