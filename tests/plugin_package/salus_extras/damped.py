"""A strategy: sites are pulled towards the last model but one, which the coordinator sends beside the model."""

from typing import Annotated

import numpy as np
from pydantic import Field

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strategies.base import LocalRule, Mean, Sent, State
from salus.common.strict import Strict
from salus.common.vectors import FloatVector


class DampedSettings(Strict):
    """Settings of `damped`.

    Args:
        damping: Strength of the pull.
    """

    damping: Annotated[float, Field(ge=0, le=10)] = 0.1


class Damped:
    """Averaging, with a constant push against the direction of the last round."""

    Settings = DampedSettings

    def __init__(self, job: Job) -> None:
        self._damping = settings_of(job.aggregation, DampedSettings).damping

    def init(self, parameters: int) -> State:
        return {"last": np.zeros(parameters), "rounds": np.zeros(1)}

    def apply(self, state: State, model: FloatVector, mean: Mean) -> tuple[State, FloatVector]:
        following = {"last": mean.update, "rounds": state["rounds"] + 1}
        return following, (model + mean.update).astype(np.float32)

    def sent(self, state: State) -> Sent:
        return {"last": state["last"].astype(np.float32)}

    def local(self, own: State, sent: Sent) -> LocalRule:
        return LocalRule(add=self._damping * sent["last"].astype(np.float64), pull=self._damping)
