"""A site: what it does with each request, whichever engine brought it. Verify, decide, read, train, protect, answer.

The same object runs in the daemon, in a simulation and in Flower's engines. Everything a site refuses is refused here,
before data are read; what leaves is a `Reply` and a protected vector.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import LocalData, local_data
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.training import Trainer, training_seed
from salus.common.errors import DataError, IdentityError, Refused, SalusError, describe, where
from salus.common.events import EventSink
from salus.common.identity import Identity
from salus.common.job import Job, open_job
from salus.common.models import build_model
from salus.common.packets import Reply, Request
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector, layout_of
from salus.privacy.contribution import Contribution, Shape, scale_of
from salus.privacy.masking.store import SessionStore
from salus.privacy.protection import Protection, SiteEnd, SiteParty, protection_of
from salus.privacy.session import Session, manifest_hash

DATA_REFUSED = "This site's data cannot be used for this job. Its operator sees the reason in the site's log."


@dataclass
class RunningJob:
    """A verified job with all that is kept for it between rounds."""

    job: Job
    document: bytes
    protection: Protection
    trainer: Trainer
    data: LocalData | None

    def shape(self, parameters: int) -> Shape:
        """Return the public shape of a contribution with this many parameters."""
        clip = self.job.aggregation.update_clip_norm_l2
        return Shape(parameters, self.trainer.task.statistics_size, clip)


class Site:
    """One hospital's part in the federation.

    Args:
        site_id: position on the roster, from 1.
        identity: this site's signing key.
        keys: Ed25519 keys of the whole pinned roster, by site id.
        store: what protected sums must remember beyond a crash.
        coordinator_key: the Ed25519 key, from the pinned roster, whose signature a job must carry.
        policy: called for every job, so that a changed policy file counts at once.
    """

    def __init__(
        self,
        *,
        site_id: int,
        identity: Identity,
        keys: Mapping[int, bytes],
        store: SessionStore,
        coordinator_key: bytes,
        catalogue: Catalogue,
        policy: Callable[[], Policy],
        performance: Performance,
        events: EventSink,
    ) -> None:
        self.site_id = site_id
        self._identity, self._keys, self._store = identity, keys, store
        self._coordinator_key = coordinator_key
        self._catalogue = catalogue
        self._policy = policy
        self._performance = performance
        self._events = events
        self._random: Callable[[int], bytes] = os.urandom
        self._running: RunningJob | None = None
        self._open: tuple[tuple[str, int, int], SiteEnd] | None = None

    def handle(self, request: Request, blob: bytes) -> tuple[Reply, bytes]:
        """Answer one request; never raises for anything the other side or the data did wrong."""
        try:
            return Reply(kind="ok", site=self.site_id), self._answer(request, blob)
        except Exception as problem:
            self._open = None
            self._events.emit(
                "refused", job=request.job_id, round=request.round, error=type(problem).__name__, text=describe(problem)
            )
            if not isinstance(problem, SalusError):
                self._events.emit("unexpected", error=type(problem).__name__, where=where(problem))
            # What is wrong with the data is the operator's business; the coordinator learns only that something is.
            text = DATA_REFUSED if isinstance(problem, DataError) else describe(problem)
            return Reply(kind="refused", site=self.site_id, error=type(problem).__name__, text=text), b""

    def _answer(self, request: Request, blob: bytes) -> bytes:
        match request.kind:
            case "hello":
                return b""
            case "answer":
                return self._continue(request, blob)
            case "train":
                return self._train(request, blob)
            case "evaluate":
                return self._evaluate(request, blob)

    def _continue(self, request: Request, blob: bytes) -> bytes:
        if self._open is None or self._open[0] != _key(request):
            raise Refused("There is no open session for this request.", remedy="Begin a new attempt.")
        return self._open[1].answer(blob)

    def _train(self, request: Request, blob: bytes) -> bytes:
        running = self._accept(request)
        start = running.trainer.layout.decode(blob)
        shape = running.shape(running.trainer.layout.size)
        return self._protect(request, running, blob, shape, self._quietly(running, request, start, shape))

    def _evaluate(self, request: Request, blob: bytes) -> bytes:
        running = self._accept(request)
        parameters = running.trainer.layout.decode(blob)
        shape = running.shape(0)
        return self._protect(request, running, blob, shape, self._quietly(running, request, parameters, shape))

    def _quietly(self, running: RunningJob, request: Request, model: FloatVector, shape: Shape) -> Contribution:
        """Return this site's contribution. Under protection, a failure that depends on data becomes a contribution of
        nothing: whether a site refuses would otherwise tell the coordinator something about its patients."""
        try:
            contribution = self._contribute(running, request, model, shape)
            scale_of(contribution, shape)  # raises for NaN, infinity or values beyond their bounds
            return contribution
        except Exception as problem:
            if not running.protection.protects:
                raise
            self._events.emit(
                "contributed-nothing",
                job=request.job_id,
                round=request.round,
                text=describe(problem),
                where=where(problem),
            )
            nothing = np.zeros(shape.parameters, np.float32)
            return Contribution(nothing, 0.0, np.zeros(shape.statistics))

    def _contribute(self, running: RunningJob, request: Request, model: FloatVector, shape: Shape) -> Contribution:
        job, trainer, data = running.job, running.trainer, running.data
        if data is None:
            raise DataError("This site has no usable data for this job.", remedy="See its log.")
        bound = job.aggregation.max_patients
        statistics = trainer.evaluate(model, data.validation) / bound
        if shape.parameters == 0:
            return Contribution(np.zeros(0, np.float32), 0.0, statistics)
        update = trainer.train(model, data.train, training_seed(job, self.site_id, request.round))
        self._events.emit(
            "trained",
            job=request.job_id,
            round=request.round,
            patients=data.train.patients,
            images=len(data.train),
            validation_images=len(data.validation),
            left_out=data.left_out,
        )
        return Contribution(update, min(data.train.patients, bound) / bound, statistics)

    def _protect(
        self, request: Request, running: RunningJob, model: bytes, shape: Shape, contribution: Contribution
    ) -> bytes:
        session = Session(
            request.job_id,
            request.round,
            request.attempt,
            manifest_hash(running.document, request.kind, shape.parameters, shape.statistics),
            hashlib.sha256(model).digest(),
            request.sites,
        )
        party = SiteParty(
            self.site_id,
            self._identity,
            self._keys,
            self._store,
            self._policy().min_sites,
            self._random,
            scope=f"{running.job.task.dataset}/{running.job.job.cohort_epoch}",
        )
        end = running.protection.site_end(session, shape, running.job, party)
        reply = end.open(contribution)
        self._open = (_key(request), end)
        return reply

    def _accept(self, request: Request) -> RunningJob:
        """Return the job, after every check that can be made without reading data."""
        if request.job is None:
            raise IdentityError("Expected a signed job with this request.", remedy="Update the coordinator.")
        job, document = open_job(request.job, self._coordinator_key)
        self._policy().check(job)
        others = set(request.sites)
        if (
            not others <= set(self._keys)
            or self.site_id not in others
            or len(others) < max(job.job.min_sites, len(request.sites))
        ):
            raise Refused(
                f"Expected this site among at least {job.job.min_sites} different sites of the pinned roster.",
                remedy="Wait until enough sites take part, and use the newest roster.",
            )
        evaluation = job.job.rounds + 1
        training = request.kind == "train" and 1 <= request.round <= job.job.rounds
        if not training and not (request.kind == "evaluate" and request.round == evaluation):
            raise Refused(
                f"Expected training in a round from 1 to {job.job.rounds} or evaluation in round {evaluation}, "
                f"got {request.kind} in round {request.round}.",
                remedy="Sign a new job.",
            )
        if job.task.dataset not in self._catalogue.names():
            self._running = None  # it may have been removed while the job ran
        if self._running is None or self._running.document != document or self._running.data is None:
            self._running = None  # free the last job's data before the next one's are read
            self._running = self._prepare(job, document)
        return self._running

    def _prepare(self, job: Job, document: bytes) -> RunningJob:
        task = make_task(job.task)
        model = build_model(job.task, job.job.seed)
        trainer = Trainer(model, layout_of(model), task, job, self._performance)
        protection = protection_of(job)
        try:
            data: LocalData | None = local_data(self._catalogue, job, task, self._performance.cache_mb * 2**20)
        except Exception as problem:
            if not protection.protects:
                raise
            data = None  # the site takes part with nothing, see `_quietly`
            self._events.emit("no-data", job=job.job.name, text=describe(problem), where=where(problem))
        if data is not None:
            self._events.emit(
                "job-accepted",
                job=job.job.name,
                patients=data.train.patients,
                images=len(data.train),
                left_out=data.left_out,
            )
        return RunningJob(job, document, protection, trainer, data)


def _key(request: Request) -> tuple[str, int, int]:
    return request.job_id, request.round, request.attempt
