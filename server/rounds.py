"""How the coordinator runs a training job, the same in every engine:

publish job and model -> sites train -> protected replies -> combine -> decode -> strategy -> checkpoint -> next round
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from salus.common.errors import OtherPast, RoundError
from salus.common.strategies import strategy_of
from salus.common.strategies.base import PAST, Mean, Sent, State
from salus.common.strategies.wire import encode_model
from salus.common.sums.exact import from_limbs
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector
from salus.privacy.contribution import Kind, Shape, Sum
from salus.privacy.shapes import COHORT, shape_of
from salus.server.attempts import Attempts
from salus.server.evaluating import NOBODY, EvaluationSums
from salus.server.inviting import Cancelled
from salus.server.outline import outline_of

Evaluator = Callable[[FloatVector], dict[str, float]]


class Run(Protocol):
    """Runs a job from its first round, or from its last checkpoint, to its end."""

    def run(self) -> object:
        """Run every remaining round; raises Cancelled or RoundError."""


def run_of(attempts: Attempts, evaluate: Evaluator | None = None) -> Run:
    """Return the run of a job: training, or statistics if the job has a section for it.

    Args:
        evaluate: for simulations, evaluates a global model on a test split that no site holds.
    """
    from salus.server.measuring import StatisticsRun

    return JobRun(attempts, evaluate) if attempts.job.statistics is None else StatisticsRun(attempts)


@dataclass
class JobRun:
    """One training job.

    Args:
        evaluate: for simulations, evaluates a global model on a test split that no site holds.
    """

    attempts: Attempts
    evaluate: Evaluator | None = None

    def __post_init__(self) -> None:
        self.job, self.job_id, self.events = self.attempts.job, self.attempts.job_id, self.attempts.events
        self.checkpoints = self.attempts.checkpoints
        self.task = make_task(self.job.task)
        outline = self.attempts.outline or outline_of(self.job, self.attempts.start)
        self.layout, self.model, self.frozen = outline.layout, outline.first, outline.frozen
        self.strategy = strategy_of(self.job)
        self.evaluation = EvaluationSums(self.job, self.task, len(self.attempts.keys))

    def run(self) -> FloatVector:
        """Run every remaining round and return the final model.

        Raises:
            Cancelled: the job was cancelled.
            RoundError: too few sites online in time, or a round that failed in every attempt.
        """
        self.attempts.record("job", document=self.attempts.signed.document)
        state = self.strategy.init(self.layout.size)
        done = self.checkpoints.records(self.job_id)
        if done:
            self.model, state = self.checkpoints.load_model(self.job_id, len(done), self.layout)
            self.events.emit("resumed", job=self.job_id, round=len(done))
        for round_ in range(len(done) + 1, self.job.job.rounds + 1):
            state, (total, metrics) = self._train(round_, state)
            started = self.attempts.clock.monotonic_s()
            shape = self._shape("train")
            direction = total.mean_update(shape) * self._step_scale
            cohort = self._cohort(total)
            mean = Mean(direction, tuple(total.sites), cohort.get("patients", 0), cohort.get("restarted", 0))
            state, self.model = self.strategy.apply(state, self.model, mean)
            record: dict[str, object] = {
                "round": round_,
                "sites": list(total.sites),
                "metrics_before": metrics,
                "cohort": cohort,
                "seconds": dict(self.attempts.seconds),
            }
            if self.evaluate is not None:
                record["metrics"] = self.evaluate(self.model)
            self.checkpoints.save_round(self.job_id, round_, self.layout, self.model, state, record, self.frozen)
            self.attempts.seconds["server"] = self.attempts.clock.monotonic_s() - started
            shown = record.get("metrics", metrics)
            assert isinstance(shown, dict)  # Safe because both branches are metric dictionaries.
            self.events.emit(
                "round", job=self.job_id, round=round_, of=self.job.job.rounds, sites=list(total.sites), metrics=shown,
                seconds=dict(self.attempts.seconds),
            )  # fmt: skip
        self._final_metrics()
        return self.model

    @property
    def _step_scale(self) -> float:
        """With distributed noise a site's vector is a sum over sampled patients; their expected number is public."""
        privacy = self.job.privacy
        return 1.0 / (privacy.sampling_rate * privacy.patients_per_site) if privacy.noise == "distributed" else 1.0

    def _final_metrics(self) -> None:
        """Evaluate the final model at the sites; a failure here does not fail the job, whose model is complete."""
        if self.attempts.evaluated or (self.job.privacy.noised and self.job.privacy.evaluation_share == 0):
            return
        try:
            total, _ = self._round(self.job.job.rounds + 1, "evaluate", {})
        except Cancelled:
            raise
        except RoundError as problem:
            self.events.emit("not-evaluated", job=self.job_id, text=str(problem))
            return
        shape = self._shape("evaluate")
        if self.evaluation.empty(total, shape):
            self.events.emit("not-evaluated", job=self.job_id, text=NOBODY)
            return
        self.events.emit("evaluated", job=self.job_id, **self.evaluation.fields(total, shape))

    def _train(self, round_: int, state: State) -> tuple[State, tuple[Sum, dict[str, object]]]:
        """Return the coordinator's state with which a round was trained, and what `_round` returns.

        If a site lacks what it should have kept, all begin again in this round, once: who says so again is left out.
        """
        sent = self.strategy.sent(state)
        self.attempts.begins_again = PAST in sent  # of other strategies, a site that says so is left out
        try:
            return state, self._round(round_, "train", sent)
        except OtherPast:
            state = self.strategy.again(state)
        finally:
            self.attempts.begins_again = False
        return state, self._round(round_, "train", self.strategy.sent(state))

    def _round(self, round_: int, kind: Kind, sent: Sent) -> tuple[Sum, dict[str, object]]:
        """Return the sum of one round and the metrics of the model that the sites received.

        Args:
            sent: what the strategy sends beside the model.
        """
        shape = self._shape(kind)

        def useful(total: Sum) -> None:
            if kind == "train":
                total.mean_update(shape)  # raises if no site sent a weight

        total = self.attempts.sum(round_, kind, encode_model(self.layout, self.model, sent), shape, useful)
        return total, self.evaluation.metrics(total, shape)

    def _cohort(self, total: Sum) -> dict[str, int]:
        """Return `COHORT` of a round over all sites; empty with noise."""
        if self.job.privacy.noised:
            return {}
        numbers = from_limbs(total.statistics(self._shape("train"), 1.0)[self.task.statistics_size :])
        return {name: round(float(number)) for name, number in zip(COHORT, numbers, strict=True)}

    def _shape(self, kind: Kind) -> Shape:
        return shape_of(self.job, kind, self.layout.size, self.task)
