"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, option II): control variates remove the drift of different sites.

A site's steps are corrected by ``c - c_i``: the mean direction of all sites minus its own. With K plain steps of size lr from x
to y_i, ``c_i' = c_i - c + (x - y_i) / (K lr)``. As long as c is the weighted mean of the c_i of the same sites, the next c is
``-mean update / (K lr)``: it follows from the sum of updates, and sites send no second vector. Updates are clipped before
they are summed, so a site computes c_i' from its clipped update, and the equation remains exact.

That needs the same sites with the same weights in each round. When they change, or a site has lost its c_i and says so, the
coordinator starts again from zero control variates, and the next round is one of averaging.

A c_i counts only if it comes from the round whose hash was sent (`past_of`). Otherwise a coordinator could make a single site
forget its c_i, or have it computed from another model, and subtract two sums: what is left would be this site's own.

Deviation: weights are patients up to the job's public bound, not equal; every site takes part in every round.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from salus.common.errors import JobError, OtherPast
from salus.common.job import Job
from salus.common.optimizers.sgd import Settings as SgdSettings
from salus.common.registry import settings_of
from salus.common.strategies.base import (
    PAST,
    PAST_SIZE,
    Float64Vector,
    LocalRule,
    Mean,
    Sent,
    State,
    learning_rate_of,
    past_of,
)
from salus.common.strict import Strict
from salus.common.vectors import FloatVector


class ScaffoldSettings(Strict):
    """Settings of `scaffold`.

    Args:
        local_steps: Steps of every site in a round, whatever the number of its images.
    """

    local_steps: Annotated[int, Field(ge=1, le=100_000)] = 20  # about an epoch of 600 images in batches of 32


class Scaffold:
    """Averaging of models whose steps were corrected.

    Raises:
        JobError: noise, another optimizer than plain `sgd`, or `local_epochs`; the equations hold for plain steps only.
    """

    Settings = ScaffoldSettings

    def __init__(self, job: Job) -> None:
        self._steps = settings_of(job.aggregation, ScaffoldSettings).local_steps
        self._rate, self._local_rate = learning_rate_of(job), job.training.learning_rate
        if job.privacy.noised:
            raise JobError(
                "Expected noise = \"none\" with strategy 'scaffold'.", remedy="Use 'fedavg' or 'fedavgm' with noise."
            )
        plain = job.training.optimizer == "sgd" and settings_of(job.training, SgdSettings).momentum == 0
        if not plain or job.training.weight_decay or job.training.local_epochs is not None:
            raise JobError(
                "Expected plain steps with strategy 'scaffold'.",
                remedy='Set optimizer = "sgd", momentum = 0 and no weight_decay; set local_steps instead of local_epochs.',
            )

    def init(self, parameters: int) -> State:
        zeros = np.zeros(PAST_SIZE)
        return {
            "control": np.zeros(parameters),
            "round": np.ones(1),
            "since": np.ones(1),
            "cohort": np.zeros(0),
            PAST: zeros,
        }

    def apply(self, state: State, model: FloatVector, mean: Mean) -> tuple[State, FloatVector]:
        """Return the averaged model and the next control variate, or zeros if the sites' own no longer belong to it."""
        round_, cohort = state["round"] + 1, np.array([mean.patients, *mean.sites], dtype=np.float64)
        first = float(state["since"][0]) == float(state["round"][0])
        kept = not mean.restarted and (first or np.array_equal(cohort, state["cohort"]))
        control = -mean.update / (self._steps * self._local_rate) if kept else np.zeros(len(mean.update))
        following = {
            "control": control,
            "round": round_,
            "since": state["since"] if kept else round_,
            "cohort": cohort,
            PAST: past_of(int(state["round"][0]), model, self.sent(state)).astype(np.float64)
            if kept
            else np.zeros(PAST_SIZE),
        }
        return following, (model + self._rate * mean.update).astype(np.float32)

    def sent(self, state: State) -> Sent:
        """Return the control variate, the number of this round, that in which all control variates were zero, and the past."""
        whole = {PAST: np.zeros(PAST_SIZE), **state}  # a job that began with an older version has no past
        return {name: np.asarray(whole[name], dtype=np.float32) for name in ("control", "round", "since", PAST)}

    def again(self, state: State) -> State:
        zeros = {"control": np.zeros(len(state["control"])), "cohort": np.zeros(0), PAST: np.zeros(PAST_SIZE)}
        return {**state, **zeros, "since": state["round"]}

    def local(self, own: State, sent: Sent) -> LocalRule:
        round_, since = float(sent["round"][0]), float(sent["since"][0])
        control = sent["control"].astype(np.float64)
        known = bool(own) and float(own["round"][0]) == round_ - 1 and float(own["since"][0]) == since
        if round_ == since:
            mine = np.zeros(len(control))
        elif known and len(own["control"]) == len(control):
            mine = own["control"]
        else:
            raise OtherPast(
                "This site does not have what it should have kept of the round before.",
                remedy="No action is needed: the coordinator begins again from zero control variates.",
            )

        def keep(update: Float64Vector) -> State:
            following = mine - control - update / (self._steps * self._local_rate)
            return {"control": following, "round": np.array([round_]), "since": np.array([since])}

        return LocalRule(steps=self._steps, add=control - mine, keep=keep)
