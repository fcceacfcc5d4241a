"""FedProx (Li et al. 2020, arXiv 1812.06127): local steps are pulled towards the global model, so that sites drift less apart.

A site minimises its loss plus ``proximal / 2`` times the squared distance from the model of the round; the coordinator averages.
"""

from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strategies.base import LocalRule, Sent, State
from salus.common.strategies.fedavg import FedAvg
from salus.common.strict import Strict


class FedProxSettings(Strict):
    """Settings of `fedprox`.

    Args:
        proximal: Strength of the pull towards the model with which a round began; mu in the paper.
    """

    proximal: Annotated[float, Field(gt=0, le=1000)] = 0.1  # the middle of the values tried in the paper


class FedProx(FedAvg):
    """Averaging of models that were trained with a pull towards the global model.

    Raises:
        JobError: a round is a single noised step, at which the pull is zero.
    """

    Settings = FedProxSettings

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._pull = settings_of(job.aggregation, FedProxSettings).proximal
        if job.one_step:
            raise JobError(
                "Expected several local steps with strategy 'fedprox'; in this job a round is one step, where it has no effect.",
                remedy="Use 'fedavgm', or privacy.steps_per_round above 1 with local noise.",
            )

    def local(self, own: State, sent: Sent) -> LocalRule:
        return LocalRule(pull=self._pull)
