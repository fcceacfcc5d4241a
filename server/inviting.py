"""Whom the coordinator asks for a sum, for whom it waits, and what it says about those whom it does not ask.

without noise, protected    the sites of the first sum over these data, all of them; before it, every site that is online
otherwise                   every site that is online, without those left aside, see `patience`, as long as the others are enough

A site that fails is never left aside under the first rule. Without noise the difference of two sums over different sites is what
one site sent, and the sites themselves refuse the second sum.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from salus.common.clock import Clock
from salus.common.errors import RoundError
from salus.common.events import EventSink
from salus.common.job import Job
from salus.privacy.protection import key_holder_of, protection_of
from salus.server.checkpoints import Checkpoints
from salus.server.federation import Federation
from salus.server.participants import Participants, scope_of
from salus.server.patience import Patience, SiteFailures
from salus.server.turns import Turn, Turns

POLL_S = 0.2
SAME_SITES = "Sums without noise over this data set are always over the same sites."


class Cancelled(RoundError):
    """The job was cancelled."""


class Inviting:
    """The invitations of one job.

    Args:
        who: the members of the roster with which the job began, and why others cannot take part.
        cancelled: called while waiting.
        turns: which job each site works for.
    """

    def __init__(
        self,
        job: Job,
        job_id: str,
        who: Participants,
        federation: Federation,
        checkpoints: Checkpoints,
        events: EventSink,
        clock: Clock,
        cancelled: Callable[[], bool],
        turns: Turns,
    ) -> None:
        self._job, self._job_id, self._who = job, job_id, who
        self._federation, self._checkpoints, self._events = federation, checkpoints, events
        self._clock, self._cancelled, self._turns = clock, cancelled, turns
        self._protection = protection_of(job)
        self._told: dict[int, str] = {}
        self._told_busy: dict[int, str] = {}
        self.failures = SiteFailures(clock)

    @property
    def needed(self) -> int:
        """The fewest sites of a sum."""
        return max(self._job.job.min_sites, self._protection.needed(self._job, len(self._who.keys)))

    @property
    def same_cohort(self) -> bool:
        """Whether all sums over these data are over the same sites."""
        return self._protection.protects and not self._job.privacy.noised

    @property
    def scope(self) -> str:
        """The data set and epoch of these sums."""
        return scope_of(self._job)

    def hopeless(self, sites: Collection[int], decided: Collection[int]) -> bool:
        """Whether the decisions of sites alone, not their faults, leave too few for a sum."""
        bound = self.same_cohort and bool(self._checkpoints.cohort(self.scope))
        return len(set(sites) - set(decided)) < (len(sites) if bound else self.needed)

    def _invited(self) -> tuple[int, ...] | None:
        """Return the sites to ask now, or None while too few are online.

        Without noise, the sites of the first sum over a data set are its cohort: the difference between sums over different
        sites would expose single sites, and the sites themselves refuse such a sum. A new site waits for the next cohort
        epoch. With noise, such differences are covered, and every site that is online is asked.
        """
        online = self._federation.online()
        self.failures.seen(online)
        holder = key_holder_of(self._job)
        if holder and holder not in online:
            return None
        if self.same_cohort:
            cohort = self._checkpoints.cohort(self.scope)
            if cohort and holder and holder not in cohort:
                raise RoundError(
                    f"The key holder {holder} was not part of the earlier sums over this data set: {list(cohort)}.",
                    remedy="Choose one of these as key holder, or agree with all operators on a new cohort_epoch.",
                )
            if cohort:
                return cohort if set(cohort) <= set(online) else None
            # Nor is a site left aside before the first sum: that would exclude it from every sum of the epoch.
            return online if len(online) >= self.needed else None
        aside = self.failures.aside()
        chosen = tuple(site for site in online if site == holder or site not in aside)
        if len(chosen) >= self.needed:
            return chosen
        return online if len(online) >= self.needed else None

    @contextmanager
    def in_turn(self, patience: Patience) -> Iterator[tuple[tuple[int, ...], Turn]]:
        """Wait for enough sites and until they work for no other job; they work for this one until the block ends.

        Raises:
            Cancelled: the job was cancelled.
            RoundError: too few sites were online in time.
        """

        def tell(busy: dict[int, str]) -> None:
            if self._told_busy != busy:  # once, and not in every round of two jobs that alternate
                self._told_busy = busy
                others = sorted(set(busy.values()) - {""})
                self._events.emit("waiting-for-turn", job=self._job_id, sites=sorted(busy), jobs=others)

        while True:
            sites = self.wait(patience)
            with self._turns.hold(self._job_id, sites, self._cancelled, tell, self._job.job.round_timeout_s) as turn:
                still = set(self._invited() or ())  # a site may have left during the wait
                sites = tuple(site for site in sites if site in still)
                if len(sites) >= self.needed and not self._cancelled():
                    yield sites, turn
                    return

    def wait(self, patience: Patience) -> tuple[int, ...]:
        """Return the sites to ask, as soon as enough are online; raises RoundError when the time is up, or Cancelled."""
        told: str | None = None
        while True:
            if self._cancelled():
                raise Cancelled("The job was cancelled.", remedy="")
            sites = self._invited()
            if sites is not None:
                patience.arrived()
                self._tell_absent(self._federation.online(), sites)
                return sites
            patience.begin()
            online, holder = self._federation.online(), key_holder_of(self._job)
            missing = self._missing(online)
            if patience.over:
                named = ", ".join(map(str, missing))
                raise RoundError(
                    f"Expected at least {self.needed} sites online within {patience.limit_s:.0f} s"
                    f"{f', including the key holder {holder}' if holder else ''}"
                    f"{', including those of the earlier rounds' if self.same_cohort else ''}, "
                    f"found {len(online)}{f'; missing: site {named}' if named else ''}.",
                    remedy="Start the missing sites; then run salus job resume.",
                )
            text = self._waiting_text(missing, "")
            if text != told:
                self._events.emit(
                    "waiting",
                    job=self._job_id,
                    online=list(online),
                    needed=self.needed,
                    sites=list(missing),
                    text=text,
                )
                self._tell_absent(online, ())
                told = text
            self._clock.sleep(POLL_S)

    def _missing(self, online: Collection[int]) -> dict[int, str]:
        """Return whom the job waits for, with the reason: the absent sites of its cohort, or any site that is absent."""
        cohort = self._checkpoints.cohort(self.scope) if self.same_cohort else ()
        absent = self._who.absent(self._job, online, cohort)
        return {site: reason for site, reason in absent.items() if not cohort or site in cohort}

    def _tell_absent(self, online: Collection[int], asked: Collection[int]) -> None:
        """Report why a site is not asked, once for each site and reason."""
        cohort = self._checkpoints.cohort(self.scope) if self.same_cohort else ()
        absent = self._who.absent(self._job, online, cohort)
        if asked:
            absent |= {site: why for site, why in self.failures.aside().items() if site in online and site not in asked}
        for site, reason in absent.items():
            if self._told.get(site) != reason:
                self._events.emit("not-asked", job=self._job_id, site=site, text=reason)
        self._told = absent

    def rest(self, pause_s: float, failed: Collection[int]) -> None:
        """Wait before the next attempt, and say for whom."""
        reasons = {site: text for site, text in self.failures.reasons().items() if site in failed}
        self._events.emit(
            "waiting",
            job=self._job_id,
            online=list(self._federation.online()),
            needed=self.needed,
            sites=list(reasons),
            text=self._waiting_text(reasons, f"The next attempt begins in {max(1, round(pause_s))} s."),
        )
        until_s = self._clock.monotonic_s() + pause_s
        while (left_s := until_s - self._clock.monotonic_s()) > 0:
            if self._cancelled():
                raise Cancelled("The job was cancelled.", remedy="")
            self._clock.sleep(min(POLL_S, left_s))

    def _waiting_text(self, reasons: Mapping[int, str], then: str) -> str:
        named = "; ".join(f"site {site}: {text}" for site, text in reasons.items())
        why = SAME_SITES if self.same_cohort and self._checkpoints.cohort(self.scope) else ""
        return " ".join(part for part in (f"Waiting for {named}" if named else "", why, then) if part)
