"""A site: what it does with each request, whichever engine delivers it. Verify, decide, reserve, read, train, protect, answer.

The same object runs in the daemon, in a simulation and in Flower's engines. Every refusal happens here,
before data are read; only a `Reply` and a protected vector leave the site.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from salus.client.canary import try_out
from salus.client.checking import (
    CheckLimit,
    check_round,
    check_sites,
    limited_verdict,
    offered,
    scope_of,
    session_of,
)
from salus.client.data.catalogue import Catalogue
from salus.client.data.grey_values import require_range
from salus.client.data.troubles import Trouble
from salus.client.ending import forget
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.preparing import Preparing
from salus.client.refusing import refused
from salus.client.rosters import JobRosters
from salus.client.running import Running
from salus.client.starting import received
from salus.client.state import JobStates
from salus.client.using import UseRecord, ledger_name
from salus.client.watch import DataWatch
from salus.common.errors import IdentityError, Refused
from salus.common.events import EventSink
from salus.common.fit import require_fit
from salus.common.identity import Identity
from salus.common.job import Job, open_job
from salus.common.packets import Reply, Request
from salus.common.progress import Reporter
from salus.common.start.store import SiteStarts
from salus.common.sums.questions import questions_of
from salus.common.verdict import Verdict
from salus.privacy.contribution import Contribution, DataKind, Kind, Shape
from salus.privacy.protection import SiteEnd, protection_of
from salus.privacy.protocol.contributors import late_data
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import manifest_hash
from salus.privacy.protocol.store import SessionStore


class Site:
    """One hospital's part in the federation.

    Args:
        site_id: position on the roster, from 1.
        identity: this site's signing key.
        keys: Ed25519 keys of the whole newest roster, by site id.
        store: what protected sums must remember across a crash.
        coordinator_key: the Ed25519 key, from the pinned roster, whose signature a job must carry.
        ledger: the privacy ledger of this site's patients.
        cache: folder for prepared samples, or None for none.
        rosters: which roster each job began with; None if there is only one roster, as in a simulation.
        order: this site's secret for the order of its images in training, see `training_seed`; empty in a simulation.
        limit: of checks about each data set; None for none, in a simulation.
        states: folder for what a job keeps between rounds; None keeps it in memory.
        starts: folder for the weights with which jobs start; None keeps them in memory.
        policy: called for every job, so that a changed policy file takes effect at once.
        reporter: is told how far the work is.
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
        ledger: Ledger,
        cache: Path | None = None,
        rosters: JobRosters | None = None,
        order: bytes = b"",
        limit: CheckLimit | None = None,
        states: Path | None = None,
        starts: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.site_id = site_id
        self._identity, self._keys, self._store = identity, keys, store
        self._coordinator_key = coordinator_key
        self._catalogue = catalogue
        self._policy, self._performance, self.events, self._ledger = policy, performance, events, ledger
        self._cache, self._order, self._limit, self._rosters = cache, order, limit, rosters
        self._states, self._reporter = JobStates(states), reporter or Reporter()
        self._starts = SiteStarts(starts)
        self._watch = DataWatch(catalogue, events)
        self._record = UseRecord(catalogue.uses, store, site_id)
        self._random: Callable[[int], bytes] = os.urandom
        self._running: Running | None = None
        self._open: tuple[tuple[str, int, int], SiteEnd] | None = None

    def handle(self, request: Request, blob: bytes) -> tuple[Reply, bytes]:
        """Answer one request; never raises for errors of the other side or in the data."""
        try:
            return Reply(kind="ok", site=self.site_id), self._answer(request, blob)
        except Exception as problem:
            self._open = None
            return refused(self.site_id, request, problem, self.events), b""

    def _answer(self, request: Request, blob: bytes) -> bytes:
        match request.kind:
            case "hello" | "roster":  # a daemon answers the second one itself, see `renewing`
                return b""
            case "answer":
                return self._continue(request, blob)
            case "check":
                return self.verdict(request).encode()
            case "end":
                return self._ended(request)
            case "canary":
                reply, end = try_out(self, request, blob)
                self._open = (request.session, end)
                return reply
            case "start":
                return received(self.opened(request)[0], blob, self._starts, self._policy(), self._performance)
            case "train" | "evaluate" | "measure":
                return self._ask(request, blob, request.kind)

    def _continue(self, request: Request, blob: bytes) -> bytes:
        if self._open is None or self._open[0] != request.session:
            raise Refused("There is no open session for this request.", remedy="Begin a new attempt.")
        return self._open[1].answer(blob)

    def _ask(self, request: Request, blob: bytes, kind: Kind) -> bytes:
        running = self._accept(request)
        shape = running.shape(request, kind)
        scope = scope_of(running.job)
        self._question(running.job)  # on disk before an answer exists
        running.ended = self._record.begin(running, ledger_name(request.job_id, running.document), scope, request.round)
        counted = running.protection.protects and running.account is None
        late = late_data(self.site_id, self._store.consents(scope)) if counted else DataKind.NONE
        try:
            contribution = running.contribution(request, blob, shape, self.site_id, late)
        finally:
            self._watch.look(running)
        if running.account is not None:  # also where no consent follows that would remember it
            self._store.ledger_seen(self.site_id, self._ledger.head())
        return self._protect(request, running, blob, shape, contribution)

    def _question(self, job: Job, *, remember: bool = True) -> None:
        """Refuse a job without noise that asks about the same data in another way than an earlier one; else remember it."""
        if not job.privacy.noised and (job.statistics is not None or protection_of(job).protects):
            self._store.ask(scope_of(job), questions_of(job, self._policy().least(job)), remember=remember)

    def _protect(
        self, request: Request, running: Running, model: bytes, shape: Shape, contribution: Contribution
    ) -> bytes:
        manifest = manifest_hash(running.document, shape.kind, shape.parameters, shape.statistics)
        self._reporter.at("protecting")
        party = self.party(
            self._keys,
            self._store,
            # Sums with noise do not fix a cohort, so they are kept apart from those that do.
            scope=f"noised/{request.job_id}" if running.account else scope_of(running.job),
            head=self._ledger.head if running.account else None,
            removed=self._rosters.removed(self._keys) if self._rosters else frozenset(),
        )
        end = running.protection.site_end(session_of(request, manifest, model), shape, running.job, party)
        reply = end.open(contribution)
        self._open = (request.session, end)
        return reply

    def verdict(self, request: Request) -> Verdict:
        """Return whether this site could run a job, and its declarations."""
        job, _ = self.opened(request)
        running = self._running.account.name if self._running is not None and self._running.account is not None else ""
        ask = functools.partial(self._question, remember=False)
        policy, catalogue, ledger = self._policy(), self._catalogue, self._ledger
        return limited_verdict(job, policy, catalogue, ledger, len(self.newest_keys()), running, self._limit, ask)

    def newest_keys(self) -> Mapping[int, bytes]:
        """Return the Ed25519 keys of the newest roster, by site id."""
        return self._rosters.trust.newest.keys() if self._rosters else self._keys

    def _ended(self, request: Request) -> bytes:
        """Forget a job that was aborted."""
        job, document = self.opened(request)
        if self._running is not None and self._running.job_id == request.job_id:
            self._running, self._open = None, None
        forget(request.job_id, job, document, self._ledger, self._states, self._starts, self.events)
        return b""

    def troubles(self) -> list[Trouble]:
        """Return the current problems with this site's data sets."""
        return self._catalogue.troubles.all()

    @property
    def session_open(self) -> bool:
        """Whether a protected sum waits for the coordinator's next request: its secrets are in this process only."""
        return self._open is not None and not self._open[1].finished

    def recheck(self) -> None:
        """Forget who has withdrawn, and check whether problems with data sets are resolved; called when the site is idle."""
        self._watch.recheck(self._running)

    def opened(self, request: Request) -> tuple[Job, bytes]:
        """Return the job of a request and its document, verified with the coordinator's key."""
        if request.job is None:
            raise IdentityError("Expected a signed job with this request.", remedy="Update the coordinator.")
        self._catalogue.withdrawals.require_site()
        return open_job(request.job, self._rosters.coordinator_key() if self._rosters else self._coordinator_key)

    def _accept(self, request: Request) -> Running:
        """Return the job, after every check that can be made without reading data.

        In this order: signature, policy, roster, round, and whether the job fits the declaration. These refusals state
        their reason. Only then is a budget reserved, and data are read last.
        """
        job, document = self.opened(request)
        policy = self._policy()
        policy.check(job)
        if self._rosters is not None:  # the keys of the roster with which this job began
            self._keys = self._rosters.keys(f"{request.job_id}/{hashlib.sha256(document).hexdigest()}", request.roster)
        check_sites(request, job, self._keys, self.site_id)
        check_round(request, job)
        known = self._running
        same = known is not None and known.document == document and known.job_id == request.job_id
        if not same:
            # A data set removed while a job runs is handled differently: a refusal then would reveal something.
            require_fit(job, offered(self._catalogue, policy))
            require_range(job, self._catalogue.kind(job.task.dataset))
            self._catalogue.approvals.require(job.task.dataset)
        removed = job.task.dataset not in self._catalogue.names()
        if known is not None and same and not removed:
            known.without_withdrawn()
            if known.usable:
                return known
        sent = known.account.sent if known is not None and known.account is not None and same else {}
        self._running = known = None  # free the last job's data before the next job's data are read
        running = self.prepare(job, document, request.job_id)
        if running.account is not None:
            running.account.sent = sent
        self._running = running
        return running

    def prepare(self, job: Job, document: bytes, job_id: str, *, reserving: bool = True) -> Running:
        """Return a verified job, ready to work; see `Preparing.job`."""
        preparing = Preparing(
            self.site_id, len(self._keys), self._catalogue, self._policy, self._performance, self.events, self._ledger,
            self._store, self._states, self._starts, self._watch, self._reporter, self._random, self._cache, self._order,
        )  # fmt: skip
        return preparing.job(job, document, job_id, reserving=reserving)

    def party(
        self,
        keys: Mapping[int, bytes],
        store: SessionStore,
        *,
        scope: str,
        head: Callable[[], Head] | None,
        removed: frozenset[int] = frozenset(),
    ) -> SiteParty:
        """Return this site's end of a protected sum; arguments as of `SiteParty`."""
        least, random = self._policy().min_sites, self._random
        return SiteParty(
            self.site_id, self._identity, keys, store, least, random, scope=scope, head=head, removed=removed
        )
