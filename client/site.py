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
from salus.common.errors import DataError, IdentityError, Refused, SalusError, describe
from salus.common.events import EventSink
from salus.common.identity import Identity
from salus.common.job import Job, open_job
from salus.common.models import build_model
from salus.common.packets import Reply, Request
from salus.common.tasks import make_task
from salus.common.vectors import layout_of
from salus.privacy.contribution import Contribution, Shape
from salus.privacy.masking.store import SessionStore
from salus.privacy.protection import Protection, SiteEnd, SiteParty, protection_of
from salus.privacy.session import Session

DATA_REFUSED = "This site's data cannot be used for this job. Its operator sees the reason in the site's log."


@dataclass
class RunningJob:
    """A verified job with all that is kept for it between rounds."""

    job: Job
    document: bytes
    protection: Protection
    trainer: Trainer
    data: LocalData


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
                self._events.emit("unexpected", error=type(problem).__name__, where=_where(problem))
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
        job, trainer, data = running.job, running.trainer, running.data
        start = trainer.layout.decode(blob)
        bound = job.aggregation.max_patients
        statistics = np.minimum(trainer.evaluate(start, data.validation) / max(bound, len(data.validation)), 1.0)
        update = trainer.train(start, data.train, training_seed(job, self.site_id, request.round))
        weight = min(data.train.patients, bound) / bound
        self._events.emit(
            "trained",
            job=request.job_id,
            round=request.round,
            patients=data.train.patients,
            images=len(data.train),
            validation_images=len(data.validation),
            left_out=data.left_out,
        )
        shape = Shape(trainer.layout.size, len(statistics), job.aggregation.update_clip_norm_l2)
        return self._protect(request, running, blob, shape, Contribution(update, weight, statistics))

    def _evaluate(self, request: Request, blob: bytes) -> bytes:
        running = self._accept(request)
        job, data = running.job, running.data
        parameters = running.trainer.layout.decode(blob)
        bound = job.aggregation.max_patients
        totals = running.trainer.evaluate(parameters, data.validation) / max(bound, len(data.validation))
        shape = Shape(0, len(totals), job.aggregation.update_clip_norm_l2)
        nothing = np.zeros(0, dtype=np.float32)
        return self._protect(request, running, blob, shape, Contribution(nothing, 0.0, np.minimum(totals, 1.0)))

    def _protect(
        self, request: Request, running: RunningJob, model: bytes, shape: Shape, contribution: Contribution
    ) -> bytes:
        session = Session(
            request.job_id,
            request.round,
            request.attempt,
            hashlib.sha256(running.document).digest(),
            hashlib.sha256(model).digest(),
            request.sites,
        )
        party = SiteParty(self.site_id, self._identity, self._keys, self._store, self._policy().min_sites, self._random)
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
        last = job.job.rounds + (request.kind == "evaluate")
        if not 1 <= request.round <= last:
            raise Refused(
                f"Expected a round from 1 to {job.job.rounds}, got {request.round}.", remedy="Sign a new job."
            )
        if job.task.dataset not in self._catalogue.names():
            self._running = None  # it may have been removed while the job ran
        if self._running is None or self._running.document != document:
            self._running = None  # free the last job's data before the next one's are read
            self._running = self._prepare(job, document)
        return self._running

    def _prepare(self, job: Job, document: bytes) -> RunningJob:
        task = make_task(job.task)
        model = build_model(job.task, job.job.seed)
        trainer = Trainer(model, layout_of(model), task, job, self._performance)
        data = local_data(self._catalogue, job, task, self._performance.cache_mb * 2**20)
        self._events.emit(
            "job-accepted",
            job=job.job.name,
            patients=data.train.patients,
            images=len(data.train),
            left_out=data.left_out,
        )
        return RunningJob(job, document, protection_of(job), trainer, data)


def _key(request: Request) -> tuple[str, int, int]:
    return request.job_id, request.round, request.attempt


def _where(problem: BaseException) -> str:
    """Return file names and lines of the traceback, without messages or folders."""
    places = []
    trace = problem.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])
