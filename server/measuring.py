"""How the coordinator computes statistics: send the public state, take the protected sum, compute the next state."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.errors import RoundError
from salus.common.files import write_whole
from salus.common.identity import Identity
from salus.common.sums import sums_of
from salus.common.sums.base import Totals, cells_of, norm_of
from salus.common.sums.exact import from_limbs
from salus.common.sums.scoring import Evaluated
from salus.common.sums.signed_model import seal_model
from salus.common.sums.state import state_to_bytes
from salus.privacy.contribution import Shape, Sum
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import measured_shape, scored_shape
from salus.server.attempts import Attempts
from salus.server.evaluating import NOBODY, EvaluationSums
from salus.server.inviting import Cancelled


@dataclass
class StatisticsRun:
    """One statistics job."""

    attempts: Attempts

    def __post_init__(self) -> None:
        self.job = self.attempts.job
        self.sums = sums_of(self.job)

    def run(self) -> dict[str, Any]:
        """Run every remaining step and return the result, which is also in the last step's record.

        Raises:
            Cancelled: the job was cancelled.
            RoundError: too few sites online in time, a step that failed in every attempt, or no site with enough patients.
        """
        attempts, job_id = self.attempts, self.attempts.job_id
        attempts.record("job", document=attempts.signed.document)
        done = attempts.checkpoints.records(job_id)
        state = _state_of(done[-1]) if done else []
        result: dict[str, Any] = dict(done[-1].get("result") or {}) if done else {}  # type: ignore[call-overload]
        if done:
            attempts.events.emit("resumed", job=job_id, round=len(done))
        for step in range(len(done) + 1, self.sums.steps + 1):
            started = attempts.clock.monotonic_s()
            shape = measured_shape(self.job, 2 + cells_of(self.sums, step))
            total = attempts.sum(step, "measure", state_to_bytes(state), shape)
            totals = self._totals(step, total, shape)
            if totals.patients <= 0:
                raise RoundError(
                    "No site has enough patients for these statistics.",
                    remedy="Lower min_patients if the sites' policies allow it, or use a larger data set.",
                )
            state = self.sums.fold(step, state, totals)
            record: dict[str, object] = {
                "round": step,
                "sites": list(total.sites),
                "state": state,
                "seconds": {**attempts.seconds, "all": attempts.clock.monotonic_s() - started},
            }
            if step == self.sums.steps:
                record["result"] = result = self.sums.result(state, totals)
                record["model"] = self.sums.model(state)
            attempts.checkpoints.save_record(job_id, step, record)
            attempts.events.emit(
                "round", job=job_id, round=step, of=self.sums.steps, sites=list(total.sites), metrics={}
            )
        self._evaluate()
        return result

    def _evaluate(self) -> None:
        """Have the finished model evaluated at the sites; a failure here does not fail the job, whose model is complete.

        The sites receive the model itself, so they sign its hash.
        """
        assert self.job.statistics is not None  # Safe because only jobs with statistics are run here.
        attempts, job_id = self.attempts, self.attempts.job_id
        model = attempts.checkpoints.records(job_id)[-1].get("model")
        if (
            attempts.evaluated
            or not self.job.statistics.held_out
            or not isinstance(self.sums, Evaluated)
            or not isinstance(model, dict)
        ):
            return
        shape = scored_shape(self.job, self.sums)
        try:
            total = attempts.sum(self.sums.steps + 1, "evaluate", canonical_json(model), shape)
        except Cancelled:
            raise
        except RoundError as problem:
            attempts.events.emit("not-evaluated", job=job_id, text=str(problem))
            return
        evaluation = EvaluationSums(self.job, self.sums.evaluation, len(attempts.keys))
        if evaluation.empty(total, shape):
            attempts.events.emit("not-evaluated", job=job_id, text=NOBODY)
            return
        attempts.events.emit("evaluated", job=job_id, **evaluation.fields(total, shape))

    def _totals(self, step: int, total: Sum, shape: Shape) -> Totals:
        if not self.job.privacy.noised:
            numbers = from_limbs(total.statistics(shape, 1.0))
            return Totals(float(numbers[0]), float(numbers[1]), float(numbers[1]), numbers[2:])
        unit = norm_of(self.sums, step)
        cells = total.vector[: shape.parameters] * unit
        noise = unit * noise_in_sum(self.job, shape, roster=len(self.attempts.keys), sites=len(total.sites))
        patients = max(float(cells[0]), 0.0)
        images = max(float(cells[1]), 0.0) * self.job.privacy.images_per_patient
        return Totals(patients, images, patients, cells[2:], noise)


def keep_model(attempts: Attempts, coordinator: Identity) -> Path | None:
    """Sign the model of a finished job and write it as JSON; returns its path, or None for a job without such a model.

    Raises:
        StorageError: it cannot be written; calling this again is safe.
    """
    records = attempts.checkpoints.records(attempts.job_id)
    model = records[-1].get("model") if records else None
    if attempts.job.statistics is None or not isinstance(model, dict) or not model:
        return None
    path = attempts.checkpoints.sums_model_path(attempts.job_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, seal_model(coordinator, attempts.job_id, attempts.signed.document.encode(), model))
    return path


def _state_of(record: dict[str, object]) -> Sequence[float]:
    state = record["state"]
    assert isinstance(state, list)  # Safe because `run` wrote it.
    return [float(value) for value in state]
