"""How long the coordinator keeps trying: by time, not by number, with growing pauses, and without sites that fail in a row.

    an attempt fails          pause of 0.5 s, 1 s, 2 s ... at most 5 minutes, then the next attempt
    nothing for too long      the round is given up, `join_timeout_s` after its first failure
    a site fails in a row     it is left aside for a while that doubles, if the others are enough and the sum may do without it

With distributed noise every attempt costs each site part of its reserved budget, so its pauses begin longer.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from salus.common.clock import Clock
from salus.common.errors import NotOpened, RoundError
from salus.common.waiting import wait_s

FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    0.5,
    300.0,
)  # a restarted site is soon asked again; a full disk is not asked every second
LONGEST_SAID_S = 3600.0
FIRST_COSTLY_PAUSE_S = 15.0  # with distributed noise
ASIDE_AFTER = 2  # failures in a row: a single one may be a restart
ASIDE_S, LONGEST_ASIDE_S = 30.0, 1800.0  # half an hour: a site that was mended takes part again soon
DECIDED_TRIES = 3  # a refusal by policy is an answer, not a fault; a restart in the middle of it may be one
EVALUATION_PATIENCE_S = 600.0  # the model is complete, so a job does not wait for its metrics for a day
# Errors with which a site decides; a repetition changes nothing until its operator does.
DECISIONS = frozenset(
    {
        "BudgetError",
        "ConfigError",
        "DataError",
        "IdentityError",
        "JobError",
        "LedgerError",
        "NoStart",
        "OtherEpoch",
        "PackageError",
        "ProtectionError",
        "Refused",
        "RosterError",
        "StartError",
        "UnfitError",
        "WireError",
    }
)


@dataclass
class Patience:
    """The time that one round has.

    Args:
        limit_s: seconds from the first failure, or from the beginning of the first wait, after which it is given up.
        costly: whether an attempt that fails costs privacy budget.
        first: whether nothing was reached before this round, so that a job which cannot run ends at once.
    """

    clock: Clock
    limit_s: float
    costly: bool = False
    first: bool = False
    failures: int = 0
    decided: int = 0
    _began_s: float | None = None

    def begin(self) -> None:
        """Start counting, if nothing has been counted yet."""
        if self._began_s is None:
            self._began_s = self.clock.monotonic_s()

    def arrived(self) -> None:
        """Forget the time that was spent waiting for sites before the first attempt."""
        if not self.failures:
            self._began_s = None

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._began_s is not None and self.clock.monotonic_s() - self._began_s > self.limit_s

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        gone_s = 0.0 if self._began_s is None else self.clock.monotonic_s() - self._began_s
        return max(0.0, self.limit_s - gone_s)

    def failed(self, round_: int, problem: Exception, *, decided: bool, final: bool = False) -> float:
        """Count a failed attempt and return the seconds to wait before the next one.

        Args:
            decided: whether the sites' own decisions, not a fault, made it fail.
            final: whether no operator can change them, as when the privacy reserved for the job is used up.

        Raises:
            RoundError: the round is given up.
        """
        self.begin()
        self.failures += 1
        self.decided = self.decided + 1 if decided or isinstance(problem, NotOpened) else 0
        if self.over or ((self.first or final) and self.decided >= DECIDED_TRIES):
            last = getattr(problem, "problem", str(problem))
            raise RoundError(
                f"Round {round_} failed in {self.failures} attempts. The last failure: {last}",
                remedy="The job's events show each site's answer. When the cause is removed, run: salus job resume.",
            )
        first_s = FIRST_COSTLY_PAUSE_S if self.costly else FIRST_PAUSE_S
        return min(first_s * 2.0 ** min(self.failures - 1, 30), LONGEST_PAUSE_S, self.left_s + 1e-3)

    def at_hours(self, pause_s: float, problems: Iterable[str]) -> float:
        """Return a pause that is longer if sites said that they work at other hours; at most an hour, whatever they say.

        Args:
            problems: what the sites answered.
        """
        said_s = min(wait_s(problems, self.clock.now()), LONGEST_SAID_S, self.left_s + 1e-3)
        return max(pause_s, said_s)


@dataclass
class _Failing:
    count: int = 0
    text: str = ""
    until_s: float = 0.0
    gone: bool = False


@dataclass
class SiteFailures:
    """Which sites fail in a row, over all attempts and rounds of a job."""

    clock: Clock
    _failing: dict[int, _Failing] = field(default_factory=dict)

    def failed(self, site: int, text: str, spent_s: float) -> None:
        """Count a failure of a site.

        Args:
            spent_s: seconds that it cost; who keeps the others waiting for long is left aside for longer.
        """
        known = self._failing.setdefault(site, _Failing())
        known.count, known.text, known.gone = known.count + 1, text, False
        if known.count >= ASIDE_AFTER:
            aside_s = max(ASIDE_S, spent_s) * 2.0 ** min(known.count - ASIDE_AFTER, 30)
            known.until_s = self.clock.monotonic_s() + min(aside_s, max(LONGEST_ASIDE_S, 4 * spent_s))

    def answered(self, site: int) -> None:
        """Forget the failures of a site that took part to the end."""
        self._failing.pop(site, None)

    def seen(self, online: Collection[int]) -> None:
        """Ask a site again at once that was offline meanwhile: it was restarted, perhaps mended."""
        for site, known in self._failing.items():
            if site not in online:
                known.gone = True
            elif known.gone:
                known.gone, known.until_s = False, 0.0

    def aside(self) -> Mapping[int, str]:
        """Return the sites that are left aside now, with the reason."""
        now_s = self.clock.monotonic_s()
        return {
            site: f"left aside for a while after {known.count} failures in a row; the last one: {known.text}"
            for site, known in sorted(self._failing.items())
            if known.count >= ASIDE_AFTER and now_s < known.until_s
        }

    def reasons(self) -> Mapping[int, str]:
        """Return the last failure of every site that failed in its last attempt."""
        return {site: known.text for site, known in sorted(self._failing.items())}
