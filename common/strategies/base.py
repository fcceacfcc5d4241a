"""The interface of a strategy: both halves of a federated algorithm, with explicit states.

coordinator                                      site
init ──> state                                   own state, kept on disk between rounds
sent(state) ── beside the model ───────────────> local(own, sent): how its steps are corrected, what it keeps
apply(state, model, mean) <── protected sum ──── clipped update
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from salus.common.canonical import hash_parts
from salus.common.job import Job
from salus.common.vectors import FloatVector

Float64Vector = npt.NDArray[np.float64]
State = Mapping[str, Float64Vector]
Sent = Mapping[str, FloatVector]
PAST = "past"  # name, in what is sent and what is kept, of the hash of the round from which a kept state comes
PAST_SIZE = 32
STEP_LEARNING_RATE = 0.3  # for noised gradients of norm about 1 with momentum 0.9; see the table in docs/results.md


@dataclass(frozen=True)
class Mean:
    """What the coordinator learns in a round.

    Args:
        update: weighted mean of the sites' clipped updates, ``[parameters]``.
        sites: the sites in the sum.
        patients: number of training patients behind it; 0 with noise, where it is not known.
        restarted: number of sites in the sum that said so, see `LocalRule`.
    """

    update: Float64Vector
    sites: tuple[int, ...] = ()
    patients: int = 0
    restarted: int = 0


@dataclass(frozen=True)
class LocalRule:
    """How a site takes its steps in one round: the gradient g at the parameters w becomes ``g + add + pull * (w - start)``.

    The rule is made of public numbers and of what the site kept from its own earlier updates, never of patients' data, so it
    changes no guarantee: where noise is added, the correction comes after it.

    Args:
        steps: number of steps, the same at every site; None for the passes of the job.
        add: added to every gradient, ``[parameters]``; None for nothing.
        pull: strength of the pull towards the parameters with which the round began.
        keep: from the clipped update, what the site keeps for the next round; None for nothing.
        restarted: of no use any more, see `OtherPast`; protected sums count it, so it stays.
    """

    steps: int | None = None
    add: Float64Vector | None = None
    pull: float = 0.0
    keep: Callable[[Float64Vector], State] | None = None
    restarted: bool = False

    @property
    def corrects(self) -> bool:
        """Whether gradients are changed."""
        return self.add is not None or self.pull != 0.0


PLAIN = LocalRule()


class Strategy(Protocol):
    """A federated algorithm.

    >>> from salus.common.job import Job, JobHead, Privacy, TaskSettings
    >>> from salus.common.strategies.fedavg import FedAvg
    >>> task = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(8, 8))
    >>> fedavg = FedAvg(Job(job=JobHead(name="j", rounds=1), task=task, privacy=Privacy(noise="none")))
    >>> state = fedavg.init(2)
    >>> state, model = fedavg.apply(state, np.zeros(2, np.float32), Mean(np.array([0.5, -1.0])))
    >>> model.tolist()
    [0.5, -1.0]
    """

    def init(self, parameters: int) -> State:
        """Return the coordinator's state before the first round, for a model with this many parameters."""

    def apply(self, state: State, model: FloatVector, mean: Mean) -> tuple[State, FloatVector]:
        """Return the next state and the next global model."""

    def sent(self, state: State) -> Sent:
        """Return the vectors that travel beside the model; their names and lengths are the same in every round."""

    def local(self, own: State, sent: Sent) -> LocalRule:
        """Return how a site takes its steps in this round.

        Args:
            own: what `LocalRule.keep` returned in the latest earlier round that this site remembers; empty if there is none, or
                if it does not come from the round whose hash was sent as `PAST`.
            sent: what the coordinator sent.

        Raises:
            OtherPast: the site lacks its own state; the coordinator then begins `again`.
        """

    def again(self, state: State) -> State:
        """Return the coordinator's state for the same round, in which no site needs what it kept before."""


class OneSided:
    """The site's half of a strategy that changes nothing at the sites; a base class for such strategies."""

    def sent(self, state: State) -> Sent:
        """Return nothing."""
        return {}

    def local(self, own: State, sent: Sent) -> LocalRule:
        """Return the plain rule."""
        return PLAIN

    def again(self, state: State) -> State:
        """Return the same state: no site keeps anything."""
        return state


def past_of(round_: int, model: FloatVector, sent: Sent) -> FloatVector:
    """Return the hash of what all sites received in a round, as one number for each byte.

    What was sent has the hash of the round before, so this names the whole past from which the states of the sites come.
    """
    beside = [part for name in sorted(sent) for part in (name, np.asarray(sent[name], dtype="<f4").tobytes())]
    digest = hash_parts("salus/past/1", str(round_), np.asarray(model, dtype="<f4").tobytes(), *beside)
    return np.frombuffer(digest, np.uint8).astype(np.float32)


def learning_rate_of(job: Job) -> float:
    """Return the job's learning rate at the server, or the default for its kind of rounds."""
    return job.aggregation.server_learning_rate or (STEP_LEARNING_RATE if job.one_step else 1.0)
