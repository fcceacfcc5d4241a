"""FedAvg (McMahan et al. 2017, arXiv 1602.05629, algorithm 1), written as a step along the mean update.

Deviation: the weights are the sites' patients up to the job's public bound, not their images, and the mean update is
scaled by a server learning rate (Reddi et al. 2021, arXiv 2003.00295); at 1 this is plain averaging of the local models.
"""

import numpy as np

from salus.common.job import Job
from salus.common.strategies.base import Mean, OneSided, State, learning_rate_of
from salus.common.vectors import FloatVector


class FedAvg(OneSided):
    """``model + server_learning_rate * mean_update``; it has no state."""

    def __init__(self, job: Job) -> None:
        self._learning_rate = learning_rate_of(job)

    def init(self, parameters: int) -> State:
        return {}

    def apply(self, state: State, model: FloatVector, mean: Mean) -> tuple[State, FloatVector]:
        return state, (model + self._learning_rate * mean.update).astype(np.float32)
