"""How the coordinator runs a training job, the same in every engine:

publish job and model -> sites train -> protected replies -> combine -> decode -> strategy -> checkpoint -> next round
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from salus.common.errors import RoundError
from salus.common.estimates import to_plain
from salus.common.figures import Figures
from salus.common.start.applying import first_network
from salus.common.strategies import strategy_of
from salus.common.strategies.base import Mean, Sent
from salus.common.strategies.wire import encode_model
from salus.common.subgroups import groups_of
from salus.common.subgroups.exact import from_entries
from salus.common.subgroups.noisy import rows_of, total_noise, total_of
from salus.common.subgroups.results import AttributeResult, exact_results, noisy_results, results_to_plain
from salus.common.sums.exact import exact_size, from_limbs
from salus.common.tasks import make_task
from salus.common.tasks.base import Totals
from salus.common.vectors import FloatVector, frozen_of, layout_of, read_parameters
from salus.privacy.contribution import Kind, Shape, Sum
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import COHORT, shape_of
from salus.server.attempts import Attempts, Cancelled

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
        initial = first_network(self.job, self.attempts.start)
        self.layout = layout_of(initial)
        self.model = read_parameters(initial, self.layout)
        # A model file of a job with a start is complete: what is frozen follows from no seed.
        self.frozen = {} if self.job.start is None else frozen_of(initial)
        self.strategy = strategy_of(self.job)
        self.groups = groups_of(self.job)

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
            total, metrics = self._round(round_, "train", self.strategy.sent(state))
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
                "round", job=self.job_id, round=round_, of=self.job.job.rounds, sites=list(total.sites), metrics=shown
            )
        self._final_metrics()
        return self.model

    @property
    def _step_scale(self) -> float:
        """With distributed noise a site's vector is a sum over sampled patients; their expected number is public."""
        privacy = self.job.privacy
        return 1.0 / (privacy.sampling_rate * privacy.patients_per_site) if privacy.noise == "distributed" else 1.0

    def _final_metrics(self) -> None:
        """Evaluate the final model at the sites; a failure here does not fail the job, whose model is complete."""
        if self.job.privacy.noised and self.job.privacy.evaluation_share == 0:
            return
        try:
            total, metrics = self._round(self.job.job.rounds + 1, "evaluate", {})
        except Cancelled:
            raise
        except RoundError as problem:
            self.events.emit("not-evaluated", job=self.job_id, text=str(problem))
            return
        self.events.emit(
            "evaluated",
            job=self.job_id,
            sites=list(total.sites),
            metrics=metrics,
            figures=self._figures(total).model_dump(mode="json"),
            **({"subgroups": results_to_plain(self._subgroups(total))} if self.groups.count else {}),
        )

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
        return total, self._metrics(total, kind)

    def _cohort(self, total: Sum) -> dict[str, int]:
        """Return `COHORT` of a round over all sites; empty with noise."""
        if self.job.privacy.noised:
            return {}
        numbers = from_limbs(total.statistics(self._shape("train"), 1.0)[self.task.statistics_size :])
        return {name: round(float(number)) for name, number in zip(COHORT, numbers, strict=True)}

    def _metrics(self, total: Sum, kind: Kind) -> dict[str, object]:
        """Return the metrics in a sum: with noise, only an evaluation has metrics, each with its standard error."""
        if not self.job.privacy.noised:
            return to_plain(self.task.metrics(self._statistics(total, kind)))
        return to_plain(self.task.private_metrics(*self._noised(total))) if kind == "evaluate" else {}

    def _figures(self, total: Sum) -> Figures:
        if not self.job.privacy.noised:
            return self.task.figures(self._statistics(total, "evaluate"))
        return self.task.private_figures(*self._noised(total))

    def _statistics(self, total: Sum, kind: Kind) -> Totals:
        statistics = total.statistics(self._shape(kind), self.job.aggregation.max_patients)
        return statistics[: self.task.statistics_size]

    def _noised(self, total: Sum) -> tuple[Totals, float]:
        """Return the noisy statistics of all patients and the standard deviation of their noise."""
        rows, noise = self._noised_rows(total)
        return total_of(rows, self.groups), noise * total_noise(self.groups)

    def _noised_rows(self, total: Sum) -> tuple[Totals, float]:
        """Return the noisy statistics of all patients and of each subgroup, ``[1 + groups, row]``, and the noise's deviation."""
        shape = self._shape("evaluate")
        noise = noise_in_sum(self.job, shape, roster=len(self.attempts.keys), sites=len(total.sites))
        return rows_of(total.vector[: shape.parameters], self.groups), noise * self.groups.norm_l2

    def _subgroups(self, total: Sum) -> tuple[AttributeResult, ...]:
        if self.job.privacy.noised:
            rows, noise = self._noised_rows(total)
            return noisy_results(self.task, self.groups, rows[1:], noise)
        size, bound = self.task.statistics_size, self.job.aggregation.max_patients
        entries = total.statistics(self._shape("evaluate"), 1.0)[size + exact_size(len(COHORT)) :]
        return exact_results(self.task, self.groups, from_entries(entries, self.groups, size, bound))

    def _shape(self, kind: Kind) -> Shape:
        return shape_of(self.job, kind, self.layout.size, self.task)
