"""One protected sum over the sites: wait for sites, ask them, combine the answers, and retry if too few answered.

If too few sites finish a round, it is abandoned, nothing of it is kept, and a new attempt begins.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from salus.common.clock import Clock, SystemClock
from salus.common.errors import NotOpened, ProtectionError, RoundError, SalusError
from salus.common.events import EventSink
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.start.weights import Weights
from salus.privacy.contribution import Kind, Shape, Sum
from salus.privacy.protection import CoordinatorEnd, key_holder_of, protection_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.session import Session, manifest_hash
from salus.privacy.protocol.transcript import Recorder, no_record
from salus.server.checkpoints import Checkpoints
from salus.server.federation import Federation
from salus.server.outline import Outline
from salus.server.participants import Participants, scope_of
from salus.server.starting import StartSender
from salus.server.turns import Turns

MAX_ATTEMPTS = 5  # per round and run of the coordinator; after that, a person must look
POLL_S = 0.2
LAST_NAMED_EXCHANGE = 5  # encryption has many exchanges; the later ones share one name
RETRY_PAUSE_S = 0.5


class Cancelled(RoundError):
    """The job was cancelled."""


@dataclass
class Attempts:
    """Makes the protected sums of one job.

    Args:
        keys: Ed25519 keys of the whole roster with which the job began, by site id.
        record: takes the transcript of protected sums.
        participants: the members of that roster and why others cannot take part; None if there is only one roster.
        cancelled: called between and during exchanges.
        start: the weights with which the job starts; None for a job without a start.
        turns: which job each site works for, if several run at once.
        outline: of the network; without it, the network is built.
        seconds: duration of the last attempt, by step.
    """

    job: Job
    job_id: str
    signed: Signed
    federation: Federation
    checkpoints: Checkpoints
    events: EventSink
    keys: Mapping[int, bytes]
    record: Recorder = no_record
    participants: Participants | None = None
    cancelled: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    start: Weights | None = None
    turns: Turns = field(default_factory=Turns)
    outline: Outline | None = None

    def __post_init__(self) -> None:
        self.protection = protection_of(self.job)
        self._who = self.participants or Participants(self.keys)
        self._told: dict[int, str] = {}
        self._told_busy: dict[int, str] = {}
        self._advertised: set[int] = set()
        self._starts = StartSender(self.signed, self.job_id, self.federation, self.events, self.job, self.start)

    def sum(
        self, round_: int, kind: Kind, blob: bytes, shape: Shape, check: Callable[[Sum], object] = lambda total: None
    ) -> Sum:
        """Return the sum of one round.

        Args:
            blob: what every site receives: the model or the state.
            check: raises ProtectionError for an unusable sum; then another attempt begins.

        Raises:
            Cancelled: the job was cancelled.
            RoundError: too few sites online in time, or a round that failed in every attempt.
        """
        last = ""
        for _ in range(MAX_ATTEMPTS):
            with self._sites_in_turn() as sites:
                attempt = self.checkpoints.begin_attempt(self.job_id, round_)
                self._starts.send(round_, sites, self.job.job.round_timeout_s)
                self.events.emit("attempt", job=self.job_id, round=round_, attempt=attempt, sites=list(sites))
                try:
                    total = self._attempt(round_, attempt, sites, kind, blob, shape)
                    if len(total.sites) < self._needed:
                        raise RoundError(
                            f"Expected answers from at least {self._needed} sites, got {len(total.sites)}.",
                            remedy="",
                        )
                    check(total)
                    return total
                except (RoundError, ProtectionError) as problem:
                    if isinstance(problem, Cancelled):
                        raise
                    self.events.emit("abandoned", job=self.job_id, round=round_, attempt=attempt, text=str(problem))
                    last = problem.problem
            self.clock.sleep(RETRY_PAUSE_S)
        raise RoundError(
            f"Round {round_} failed in {MAX_ATTEMPTS} attempts. The last failure: {last}",
            remedy="The job's events show each site's answer.",
        )

    @property
    def _needed(self) -> int:
        return max(self.job.job.min_sites, self.protection.needed(self.job, len(self.keys)))

    @property
    def _same_cohort(self) -> bool:
        return self.protection.protects and not self.job.privacy.noised

    @property
    def _scope(self) -> str:
        return scope_of(self.job)

    def _recorded(self, kind: str, **fields: Any) -> None:
        """Record an entry of the transcript.

        Survivors are stored before they are announced: a site that consents to one set will not consent to another.
        """
        if kind == "session":
            self._advertised = set()
        elif kind == "advert":
            self._advertised.add(fields["site"])
        elif kind == "survivors" and not self.job.privacy.noised:
            self._check_first_cohort(set(fields["sites"]))
            self.record(kind, **fields)
            self.checkpoints.set_cohort(self._scope, fields["sites"])
            return
        self.record(kind, **fields)

    def _check_first_cohort(self, survivors: set[int]) -> None:
        """Refuse a first sum that would fix the cohort of a data set without a site that began it.

        A malicious site can make another site stop in the middle, with a box that does not open. If that fixed the
        cohort, the other site would be excluded from every sum of this epoch. So a malicious site can stop a job, and the
        refusal names it, but it cannot exclude another site.
        """
        lost = sorted(self._advertised - survivors)
        if lost and not self.checkpoints.cohort(self._scope):
            raise ProtectionError(
                f"Sites {', '.join(map(str, lost))} began the first sum over {self._scope} and did not finish it; that sum "
                "would fix which sites take part in this epoch.",
                remedy="See each site's answer in the events. Stop a faulty site, or remove it from the consortium.",
            )

    def _tell_absent(self, online: tuple[int, ...]) -> None:
        """Report why a site is not asked, once for each site and reason."""
        cohort = self.checkpoints.cohort(self._scope) if self._same_cohort else ()
        absent = self._who.absent(self.job, online, cohort)
        for site, reason in absent.items():
            if self._told.get(site) != reason:
                self.events.emit("not-asked", job=self.job_id, site=site, text=reason)
        self._told = absent

    def _invited(self) -> tuple[int, ...] | None:
        """Return the sites to ask now, or None while too few are online.

        Without noise, the sites of the first sum over a data set are its cohort: the difference between sums over different
        sites would expose single sites, and the sites themselves refuse such a sum. A new site waits for the next cohort
        epoch. With noise, such differences are covered, and every site that is online is asked.
        """
        online = self.federation.online()
        holder = key_holder_of(self.job)
        if holder and holder not in online:
            return None
        if self._same_cohort:
            cohort = self.checkpoints.cohort(self._scope)
            if cohort and holder and holder not in cohort:
                raise RoundError(
                    f"The key holder {holder} was not part of the earlier sums over this data set: {list(cohort)}.",
                    remedy="Choose one of these as key holder, or agree with all operators on a new cohort_epoch.",
                )
            if cohort:
                return cohort if set(cohort) <= set(online) else None
        return online if len(online) >= self._needed else None

    def _wait_for_sites(self) -> tuple[int, ...]:
        deadline = self.clock.monotonic_s() + self.job.job.join_timeout_s
        announced = False
        while True:
            if self.cancelled():
                raise Cancelled("The job was cancelled.", remedy="")
            sites = self._invited()
            if sites is not None:
                self._tell_absent(self.federation.online())
                return sites
            online, holder = self.federation.online(), key_holder_of(self.job)
            if self.clock.monotonic_s() > deadline:
                raise RoundError(
                    f"Expected at least {self._needed} sites online within {self.job.job.join_timeout_s:.0f} s"
                    f"{f', including the key holder {holder}' if holder else ''}"
                    f"{', including those of the earlier rounds' if self._same_cohort else ''}, "
                    f"found {len(online)}.",
                    remedy="Start the missing sites and submit the job again.",
                )
            if not announced:
                self.events.emit("waiting", job=self.job_id, online=list(online), needed=self._needed)
                self._tell_absent(online)
                announced = True
            self.clock.sleep(POLL_S)

    @contextmanager
    def _sites_in_turn(self) -> Iterator[tuple[int, ...]]:
        """Wait for enough sites and until they work for no other job; they work for this one until the block ends."""

        def tell(busy: dict[int, str]) -> None:
            if self._told_busy != busy:  # once, and not in every round of two jobs that alternate
                self._told_busy = busy
                others = sorted(set(busy.values()))
                self.events.emit("waiting-for-turn", job=self.job_id, sites=sorted(busy), jobs=others)

        while True:
            sites = self._wait_for_sites()
            with self.turns.hold(self.job_id, sites, self.cancelled, tell) as self._turn:
                still = set(self._invited() or ())  # a site may have left during the wait
                sites = tuple(site for site in sites if site in still)
                if len(sites) >= self._needed and not self.cancelled():
                    yield sites
                    return

    def _attempt(self, round_: int, attempt: int, sites: tuple[int, ...], kind: Kind, blob: bytes, shape: Shape) -> Sum:
        session = Session(
            self.job_id,
            round_,
            attempt,
            manifest_hash(self.signed.document.encode(), kind, shape.parameters, shape.statistics),
            hashlib.sha256(blob).digest(),
            # A protected session covers the whole roster, so that the coordinator cannot choose the thresholds.
            tuple(sorted(self.keys)) if self.protection.protects else sites,
        )
        end = self.protection.coordinator_end(session, shape, self.job, self.keys, self._recorded)
        common = {"job_id": self.job_id, "round": round_, "attempt": attempt, "roster": self._who.roster}
        first = Request.model_validate({"kind": kind, "job": self.signed, "sites": session.roster, **common})
        self.seconds = {}
        requests = dict.fromkeys(sites, (first, blob))
        step = "train"
        while True:
            started = self.clock.monotonic_s()
            closed = self._collect(requests, end, round_)
            self.seconds[step] = self.seconds.get(step, 0.0) + self.clock.monotonic_s() - started
            started = self.clock.monotonic_s()
            try:
                following = end.close()
            except ProtectionError:
                if closed:  # the sites themselves refused to open the sum; this is more specific than missing consents
                    raise NotOpened(self._contributors_needed, detail="") from None
                raise
            self.seconds["combine"] = self.seconds.get("combine", 0.0) + self.clock.monotonic_s() - started
            if following is None:
                return end.result
            self._turn.keep(following)
            further = Request.model_validate({"kind": "answer", **common})
            requests = {site: (further, part) for site, part in following.items()}
            step = f"exchange_{min(len(self.seconds), LAST_NAMED_EXCHANGE)}"

    @property
    def _contributors_needed(self) -> int:
        return max(self.job.job.min_sites, thresholds(len(self.keys)).minimum_cohort)

    def _collect(self, requests: dict[int, tuple[Request, bytes]], end: CoordinatorEnd, round_: int) -> bool:
        """Ask the sites and pass each answer to the protection as it arrives, so that it can be added and freed.

        Returns whether a site refused because too few sites contributed data.
        """
        answered, closed = 0, False
        for site, reply, blob in self.federation.exchange(requests, self.job.job.round_timeout_s):
            problem: str | None = None
            if isinstance(reply, SalusError):
                problem = str(reply)
            elif reply.kind == "refused":
                problem = reply.text[:500]
                closed = closed or reply.error == NotOpened.__name__
                self._starts.refused(site, reply.error)
                self._turn.release([site])
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
        return closed
