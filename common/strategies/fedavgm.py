"""FedAvg with momentum at the server (Hsu, Qi, Brown 2019, arXiv 1909.06335), for updates that are single noisy steps.

``velocity = momentum * velocity + mean_update``; ``model + learning_rate(round) * velocity``. With linear decay the
learning rate falls linearly from its first value to zero after the last round.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strategies.base import Mean, OneSided, State, learning_rate_of
from salus.common.strict import Strict
from salus.common.vectors import FloatVector


class FedAvgMSettings(Strict):
    """Settings of `fedavgm`.

    Args:
        server_momentum: Momentum of the coordinator.
        server_decay: How the coordinator's learning rate changes over the rounds: constant, or linearly to zero after the
            last round.
    """

    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # the usual value; the default learning rate fits it
    server_decay: Literal["none", "linear"] | None = None  # linear if a round is one noised step, otherwise none


class FedAvgM(OneSided):
    """Momentum over the mean updates of all rounds; its state is the velocity and the number of rounds done."""

    Settings = FedAvgMSettings

    def __init__(self, job: Job) -> None:
        own = settings_of(job.aggregation, FedAvgMSettings)
        self._momentum, self._rounds = own.server_momentum, job.job.rounds
        self._learning_rate = learning_rate_of(job)
        self._decays = (own.server_decay or ("linear" if job.one_step else "none")) == "linear"

    def init(self, parameters: int) -> State:
        return {"velocity": np.zeros(parameters), "rounds": np.zeros(1)}

    def apply(self, state: State, model: FloatVector, mean: Mean) -> tuple[State, FloatVector]:
        done = float(state["rounds"][0])
        rate = self._learning_rate * (max(0.0, 1.0 - done / self._rounds) if self._decays else 1.0)
        velocity = self._momentum * state["velocity"] + mean.update
        return {"velocity": velocity, "rounds": np.array([done + 1])}, (model + rate * velocity).astype(np.float32)
