"""The coordinator's way of a round, the same in every engine:

    publish job and model -> sites train -> protected replies -> combine -> decode -> strategy -> checkpoint -> next round

A round that too few sites finish is abandoned, nothing of it is kept, and it is tried again as a new attempt.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from salus.common.errors import ProtectionError, RoundError, SalusError
from salus.common.events import EventSink
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector, layout_of, read_parameters
from salus.privacy.contribution import Shape, Sum
from salus.privacy.dp.plan import Kind, shape_of
from salus.privacy.masking.transcript import Recorder, no_record
from salus.privacy.protection import CoordinatorEnd, protection_of
from salus.privacy.session import Session, manifest_hash
from salus.server.checkpoints import Checkpoints
from salus.server.federation import Federation
from salus.server.strategies import strategy_of

MAX_ATTEMPTS = 5  # of one round in one life of the coordinator; after that something needs a person
POLL_S = 0.2
LAST_NAMED_EXCHANGE = 5  # encryption has many; the later ones are counted together
RETRY_PAUSE_S = 0.5

Evaluator = Callable[[FloatVector], dict[str, float]]


class Cancelled(RoundError):
    """Somebody cancelled the job."""


@dataclass
class JobRun:
    """One job from its first round, or from its last checkpoint, to its end.

    Args:
        keys: Ed25519 keys of the whole roster, by site id.
        record: takes the transcript of protected sums.
        evaluate: for simulations, measures a global model on a test split that no site holds.
        cancelled: asked between and during exchanges.
    """

    job: Job
    job_id: str
    signed: Signed
    federation: Federation
    checkpoints: Checkpoints
    events: EventSink
    keys: Mapping[int, bytes]
    record: Recorder = no_record
    evaluate: Evaluator | None = None
    cancelled: Callable[[], bool] = lambda: False
    _seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task = make_task(self.job.task)
        initial = build_model(self.job.task, self.job.job.seed)
        self.layout = layout_of(initial)
        self.model = read_parameters(initial, self.layout)
        self.strategy = strategy_of(self.job)
        self.protection = protection_of(self.job)

    def run(self) -> FloatVector:
        """Run every round that is still to be run and return the final model.

        Raises:
            Cancelled: the job was cancelled.
            RoundError: too few sites for too long, or a round that failed in every attempt.
        """
        self.record("job", document=self.signed.document)
        state = self.strategy.init(self.layout.size)
        done = self.checkpoints.records(self.job_id)
        if done:
            self.model, state = self.checkpoints.load_model(self.job_id, len(done), self.layout)
            self.events.emit("resumed", job=self.job_id, round=len(done))
        for round_ in range(len(done) + 1, self.job.job.rounds + 1):
            total, metrics = self._round(round_, "train")
            started = time.monotonic()
            shape = self._shape("train")
            direction = total.mean_update(shape) * self._step_scale
            state, self.model = self.strategy.apply(state, self.model, direction)
            record: dict[str, object] = {
                "round": round_,
                "sites": list(total.sites),
                "metrics_before": metrics,
                "seconds": dict(self._seconds),
            }
            if self.evaluate is not None:
                record["metrics"] = self.evaluate(self.model)
            self.checkpoints.save_round(self.job_id, round_, self.layout, self.model, state, record)
            self._seconds["server"] = time.monotonic() - started
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
        """Measure the final model at the sites; a job whose model is done does not fail because of this."""
        if self.job.privacy.noised and self.job.privacy.evaluation_noise_multiplier == 0:
            return
        try:
            total, metrics = self._round(self.job.job.rounds + 1, "evaluate")
        except Cancelled:
            raise
        except RoundError as problem:
            self.events.emit("not-evaluated", job=self.job_id, text=str(problem))
            return
        self.events.emit("evaluated", job=self.job_id, sites=list(total.sites), metrics=metrics)

    def _round(self, round_: int, kind: Kind) -> tuple[Sum, dict[str, float]]:
        """Return the sum of one round and the metrics of the model that the sites received."""
        for _ in range(MAX_ATTEMPTS):
            sites = self._wait_for_sites()
            attempt = self.checkpoints.begin_attempt(self.job_id, round_)
            self.events.emit("attempt", job=self.job_id, round=round_, attempt=attempt, sites=list(sites))
            try:
                total = self._attempt(round_, attempt, sites, kind)
                if len(total.sites) < self._needed:
                    raise RoundError(
                        f"Expected answers of at least {self._needed} sites, got {len(total.sites)}.",
                        remedy="",
                    )
                if kind == "train":
                    total.mean_update(self._shape(kind))  # raises if nobody's weight arrived
            except (RoundError, ProtectionError) as problem:
                if isinstance(problem, Cancelled):
                    raise
                self.events.emit("abandoned", job=self.job_id, round=round_, attempt=attempt, text=str(problem))
                time.sleep(RETRY_PAUSE_S)
                continue
            return total, self._metrics(total, kind)
        raise RoundError(
            f"Round {round_} failed in {MAX_ATTEMPTS} attempts.",
            remedy="See the events of the job for each site's answer.",
        )

    def _metrics(self, total: Sum, kind: Kind) -> dict[str, float]:
        """Return the metrics in a sum: of a job with noise only the evaluation has any, and they are noisy."""
        shape = self._shape(kind)
        if not self.job.privacy.noised:
            return self.task.metrics(total.statistics(shape, self.job.aggregation.max_patients))
        return self.task.private_metrics(total.vector[: shape.parameters]) if kind == "evaluate" else {}

    def _shape(self, kind: Kind) -> Shape:
        return shape_of(self.job, kind, self.layout.size, self.task)

    @property
    def _needed(self) -> int:
        return max(self.job.job.min_sites, self.protection.needed(self.job, len(self.keys)))

    @property
    def _same_cohort(self) -> bool:
        return self.protection.protects and not self.job.privacy.noised

    @property
    def _scope(self) -> str:
        return f"{self.job.task.dataset}/{self.job.job.cohort_epoch}"

    def _recorded(self, kind: str, **fields: Any) -> None:
        """Record an entry of the transcript; survivors are remembered before they are announced, because sites that consent
        to them will consent to no others."""
        self.record(kind, **fields)
        if kind == "survivors" and not self.job.privacy.noised:
            self.checkpoints.set_cohort(self._scope, fields["sites"])

    def _invited(self) -> tuple[int, ...] | None:
        """Return the sites to ask now, or None while too few are online.

        Under protection the sites of the first sum over a data set are its cohort: the difference of sums over other sites
        would show those sites, and the sites themselves refuse such a sum. A new site waits for the next cohort epoch. Under
        differential privacy noise covers such differences, and whoever is online is asked.
        """
        online = self.federation.online()
        holder = self.job.aggregation.key_holder
        if holder and holder not in online:
            return None
        if self._same_cohort:
            cohort = self.checkpoints.cohort(self._scope)
            if cohort and holder and holder not in cohort:
                raise RoundError(
                    f"The key holder {holder} is not among the sites of earlier sums over this data set: {list(cohort)}.",
                    remedy="Name another key holder, or let all operators agree on a new cohort_epoch.",
                )
            if cohort:
                return cohort if set(cohort) <= set(online) else None
        return online if len(online) >= self._needed else None

    def _wait_for_sites(self) -> tuple[int, ...]:
        deadline = time.monotonic() + self.job.job.join_timeout_s
        announced = False
        while True:
            if self.cancelled():
                raise Cancelled("The job was cancelled.", remedy="")
            sites = self._invited()
            if sites is not None:
                return sites
            online, holder = self.federation.online(), self.job.aggregation.key_holder
            if time.monotonic() > deadline:
                raise RoundError(
                    f"Expected at least {self._needed} sites online within {self.job.job.join_timeout_s:.0f} s"
                    f"{f', the key holder {holder} among them' if holder else ''}"
                    f"{', those of the earlier rounds among them' if self._same_cohort else ''}, "
                    f"found {len(online)}.",
                    remedy="Start the missing sites and submit the job again.",
                )
            if not announced:
                self.events.emit("waiting", job=self.job_id, online=list(online), needed=self._needed)
                announced = True
            time.sleep(POLL_S)

    def _attempt(self, round_: int, attempt: int, sites: tuple[int, ...], kind: Kind) -> Sum:
        model = self.layout.encode(self.model)
        shape = self._shape(kind)
        session = Session(
            self.job_id,
            round_,
            attempt,
            manifest_hash(self.signed.document.encode(), kind, shape.parameters, shape.statistics),
            hashlib.sha256(model).digest(),
            # A protected session is over the whole roster, whoever is online: thresholds must not be the coordinator's choice.
            tuple(sorted(self.keys)) if self.protection.protects else sites,
        )
        end = self.protection.coordinator_end(session, shape, self.job, self.keys, self._recorded)
        common = {"job_id": self.job_id, "round": round_, "attempt": attempt}
        first = Request.model_validate({"kind": kind, "job": self.signed, "sites": session.roster, **common})
        self._seconds = {}
        requests = dict.fromkeys(sites, (first, model))
        step = "train"
        while True:
            started = time.monotonic()
            self._collect(requests, end, round_)
            self._seconds[step] = self._seconds.get(step, 0.0) + time.monotonic() - started
            started = time.monotonic()
            following = end.close()
            self._seconds["combine"] = self._seconds.get("combine", 0.0) + time.monotonic() - started
            if following is None:
                return end.result
            further = Request.model_validate({"kind": "answer", **common})
            requests = {site: (further, blob) for site, blob in following.items()}
            step = f"exchange_{min(len(self._seconds), LAST_NAMED_EXCHANGE)}"

    def _collect(self, requests: dict[int, tuple[Request, bytes]], end: CoordinatorEnd, round_: int) -> None:
        """Ask, and hand each answer to the protection as it arrives, so that it can be added and freed."""
        answered = 0
        for site, reply, blob in self.federation.exchange(requests, self.job.job.round_timeout_s):
            problem: str | None = None
            if isinstance(reply, SalusError):
                problem = str(reply)
            elif reply.kind == "refused":
                problem = reply.text[:500]
            else:
                try:
                    end.receive(site, blob)
                    answered += 1
                    self.events.emit("answered", job=self.job_id, round=round_, site=site)
                except ProtectionError as refused:
                    problem = str(refused)
            if problem is not None:
                self.events.emit("left-out", job=self.job_id, round=round_, site=site, text=problem)
        if self.cancelled():
            raise Cancelled("The job was cancelled.", remedy="")
