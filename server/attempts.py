"""One protected sum over the sites: wait for sites, ask them, combine the answers, and retry if too few answered.

If too few sites finish a round, it is abandoned, nothing of it is kept, and a new attempt begins after a pause, see `patience`.

A protected sum without noise is over the sites of the first one, in every attempt: two sums over different sites would show what
one site sent. So the job waits for a site that fails. With noise, or without protection, it goes on without the site.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from salus.common.clock import Clock, SystemClock
from salus.common.errors import LedgerError, NotOpened, OtherPast, ProtectionError, RoundError, SalusError
from salus.common.events import EventSink
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.start.weights import Weights
from salus.privacy.contribution import Kind, Shape, Sum
from salus.privacy.protection import CoordinatorEnd, protection_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.session import Session, manifest_hash
from salus.privacy.protocol.transcript import Recorder, no_record
from salus.server.checkpoints import Checkpoints
from salus.server.federation import Federation
from salus.server.inviting import Cancelled, Inviting
from salus.server.outline import Outline
from salus.server.participants import Participants
from salus.server.patience import DECISIONS, EVALUATION_PATIENCE_S, Patience
from salus.server.starting import StartSender
from salus.server.turns import Turn, Turns

LAST_NAMED_EXCHANGE = 5  # encryption has many exchanges; the later ones share one name


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
        patience_s: how long a round may take to succeed after its first failure; None for the job's own `join_timeout_s`.
        draining: called between attempts; no further one begins when it returns True.
        evaluated: whether the finished model was evaluated before a crash; that sum is not made again.
        begins_again: whether a site without its own past ends the round with OtherPast; else it is a refusal like others.
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
    patience_s: float | None = None
    draining: Callable[[], bool] = lambda: False
    begins_again: bool = False
    evaluated: bool = False

    def __post_init__(self) -> None:
        self.protection = protection_of(self.job)
        self._who = self.participants or Participants(self.keys)
        self._inviting = Inviting(
            self.job,
            self.job_id,
            self._who,
            self.federation,
            self.checkpoints,
            self.events,
            self.clock,
            lambda: self.cancelled() or self.draining(),
            self.turns,
        )
        self._turn: Turn
        self._advertised: set[int] = set()
        self._problems: dict[int, str] = {}
        self._decided: set[int] = set()
        self._used_up: set[int] = set()
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
            RoundError: too few sites online in time, or no attempt succeeded in that time.
        """
        patience = self._patience(round_, kind)
        while True:
            with self._inviting.in_turn(patience) as (sites, turn):
                attempt = self.checkpoints.begin_attempt(self.job_id, round_)
                self._turn = turn
                self._starts.send(round_, sites, self.job.job.round_timeout_s)
                self.events.emit("attempt", job=self.job_id, round=round_, attempt=attempt, sites=list(sites))
                began_s = self.clock.monotonic_s()
                self._problems, self._decided, self._used_up = {}, set(), set()
                try:
                    total = self._attempt(round_, attempt, sites, kind, blob, shape)
                    if len(total.sites) < self._inviting.needed:
                        raise RoundError(
                            f"Expected answers from at least {self._inviting.needed} sites, got {len(total.sites)}.",
                            remedy="",
                        )
                    check(total)
                    self._note_failures(sites, total.sites, began_s)
                    return total
                except Cancelled:
                    raise
                except OtherPast as lost:
                    self.events.emit("abandoned", job=self.job_id, round=round_, attempt=attempt, text=lost.problem)
                    raise
                except (RoundError, ProtectionError) as problem:
                    self._note_failures(sites, (), began_s)
                    self.events.emit("abandoned", job=self.job_id, round=round_, attempt=attempt, text=str(problem))
                    decided = self._inviting.hopeless(sites, self._decided)
                    final = self._inviting.hopeless(sites, self._used_up)
                    pause_s = patience.failed(round_, problem, decided=decided, final=final)
            self._inviting.rest(patience.at_hours(pause_s, self._problems.values()), self._problems)

    def _patience(self, round_: int, kind: Kind) -> Patience:
        limit_s = self.job.job.join_timeout_s if self.patience_s is None else self.patience_s
        evaluates = kind == "evaluate"
        return Patience(
            self.clock,
            min(limit_s, EVALUATION_PATIENCE_S) if evaluates else limit_s,
            costly=self.job.privacy.noise == "distributed",
            first=round_ == 1 or evaluates,
        )

    def _note_failures(self, asked: Collection[int], summed: Collection[int], began_s: float) -> None:
        """Count who failed in an attempt, and forget the failures of who did not."""
        spent_s = self.clock.monotonic_s() - began_s
        for site in asked:
            if site in self._problems:
                self._inviting.failures.failed(site, self._problems[site], spent_s)
            elif site in summed:
                self._inviting.failures.answered(site)

    def _recorded(self, kind: str, **fields: Any) -> None:
        """Record an entry of the transcript.

        Survivors are stored before they are announced: a site that consents to one set will not consent to another.
        """
        if kind == "session":
            self._advertised = set()
        elif kind == "advert":
            self._advertised.add(fields["site"])
        elif kind == "survivors":
            if not self.job.privacy.noised:
                self._check_cohort(set(fields["sites"]))
            self._check_enough(len(fields["sites"]))
        self.record(kind, **fields)
        if kind == "survivors" and not self.job.privacy.noised:
            self.checkpoints.set_cohort(self._inviting.scope, fields["sites"])

    def _check_enough(self, sites: int) -> None:
        """Refuse a sum over fewer sites than the job wants before it is opened, not only afterwards."""
        if sites < self._inviting.needed:
            raise ProtectionError(
                f"Expected at least {self._inviting.needed} sites in a sum of this job, got {sites}; nothing was opened.",
                remedy="Wait for more sites.",
            )

    def _check_cohort(self, survivors: set[int]) -> None:
        """Refuse a sum over other sites than before, or a first one without a site that began it; nothing is announced then.

        The sites would refuse the first of these themselves, but a refusal of everybody would hide who failed.

        A malicious site can make another site stop in the middle, with a box that does not open. If that fixed the
        cohort, the other site would be excluded from every sum of this epoch. So a malicious site can stop a job, and the
        refusal names it, but it cannot exclude another site.
        """
        scope = self._inviting.scope
        cohort = set(self.checkpoints.cohort(scope))
        if lost := sorted((cohort or self._advertised) - survivors):
            named = ", ".join(map(str, lost))
            raise ProtectionError(
                f"Sites {named} did not finish this sum over {scope}, which is always over the same sites."
                if cohort
                else f"Sites {named} began the first sum over {scope} and did not finish it; that sum would fix which sites take "
                "part in this epoch.",
                remedy="See each site's answer in the events. Stop a faulty site, or remove it from the consortium.",
            )

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
            closed = self._collect(requests, end, round_, first=step == "train")
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

    def _collect(
        self, requests: dict[int, tuple[Request, bytes]], end: CoordinatorEnd, round_: int, *, first: bool
    ) -> bool:
        """Ask the sites and pass each answer to the protection as it arrives, so that it can be added and freed.

        Args:
            first: whether this is the first exchange, in which a site decides whether it takes part.

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
                if first and self.begins_again and reply.error == OtherPast.__name__:
                    raise OtherPast(problem, remedy="")
                if first and reply.error in DECISIONS:
                    self._decided.add(site)
                if first and reply.error == LedgerError.__name__:
                    self._used_up.add(site)
            else:
                try:
                    end.receive(site, blob)
                    answered += 1
                    self.events.emit("answered", job=self.job_id, round=round_, site=site)
                except ProtectionError as refused:
                    problem = str(refused)
            if problem is not None:
                self._problems.setdefault(site, problem)
                self.events.emit("left-out", job=self.job_id, round=round_, site=site, text=problem)
        if self.cancelled():
            raise Cancelled("The job was cancelled.", remedy="")
        return closed
