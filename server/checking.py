"""Which sites could run a job: online sites are asked; for the others, their last known declarations are used.

asked        a definite answer: the site checked its policy, its declarations and its budget
remembered   a site that works for a job is not asked: declarations from an earlier check are compared here
offline      declarations from an earlier check are shown, but decide nothing
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from salus.common.clock import Clock
from salus.common.declaration import Declaration
from salus.common.errors import SalusError, UnfitError, describe
from salus.common.events import EventSink
from salus.common.fit import problems_of
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.roster import Roster
from salus.common.strict import Strict
from salus.common.verdict import MAX_TEXT, Problem, read_verdict
from salus.privacy.protection import key_holder_of, protection_of
from salus.server.checkpoints import Checkpoints
from salus.server.federation import Federation, GridFederation
from salus.server.link import Link
from salus.server.turns import Turns

ASK_TIMEOUT_S = 30.0  # a site answers from its catalogue and ledger; one at rest starts its worker first
WAIT_S = 34.0  # for the daemon's own thread; below the admin client's time limit
MOST_SAID = 3
CHECK = "a check"  # what a job that waits for it reads


class SiteAnswer(Strict):
    """What is known about one site.

    Args:
        source: how it is known; see the module's docstring.
        checked_at: when its declarations were received, ISO 8601; empty if never.
        problems: why it cannot run the job.
        declared: its declarations by data set; None for an undeclared one.
    """

    site: int
    name: str
    online: bool
    source: Literal["asked", "remembered", "unknown"]
    checked_at: str = ""
    problems: tuple[Problem, ...] = ()
    declared: Annotated[dict[str, Declaration | None], Field(default_factory=dict)]

    @property
    def refuses(self) -> bool:
        """Whether it is certain that the site cannot run the job now; never true for an offline site."""
        return bool(self.problems) and self.online


class Check(Strict):
    """The answers of all sites.

    Args:
        busy: the jobs for which sites work that were therefore not asked; empty if all online sites were.
        needed: fewest sites with which a round of the job can finish.
        key_holder: the site without which it cannot finish, or 0.
    """

    busy: str
    needed: int
    key_holder: int
    sites: tuple[SiteAnswer, ...]

    @property
    def possible(self) -> bool:
        """Whether enough sites remain that may be able to run the job."""
        refusing = {site.site for site in self.sites if site.refuses}
        return len(self.sites) - len(refusing) >= self.needed and self.key_holder not in refusing

    def require_possible(self) -> None:
        """Raise UnfitError if too many sites refuse, with the most common reasons first."""
        if self.possible:
            return
        by_text: dict[str, list[int]] = {}
        for site in self.sites:
            for problem in site.problems if site.refuses else ():
                by_text.setdefault(problem.text, []).append(site.site)
        most = sorted(by_text.items(), key=lambda item: -len(item[1]))[:MOST_SAID]
        said = " ".join(f"Site{'s' if len(who) > 1 else ''} {', '.join(map(str, who))}: {text}" for text, who in most)
        refusing = sum(site.refuses for site in self.sites)
        raise UnfitError(
            f"The job needs {self.needed} of {len(self.sites)} sites, and {refusing} cannot run it. {said}",
            remedy="See all reasons with `salus job check`; submit with --anyway to queue it nevertheless.",
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object for the command line."""
        return {**self.model_dump(mode="json"), "possible": self.possible}


def ask_sites(
    job: Job,
    signed: Signed,
    roster: Roster,
    federation: Federation,
    checkpoints: Checkpoints,
    clock: Clock,
    busy: Mapping[int, str] = MappingProxyType({}),
) -> Check:
    """Ask every online site, and store what it has declared.

    Args:
        busy: the job of each site that works for one; it is not asked.
    """
    online = [site for site in federation.online() if site not in busy]
    request = Request(kind="check", job=signed)
    answers = remembered(job, roster, set(federation.online()) & set(busy), checkpoints)
    for site, reply, blob in federation.exchange(dict.fromkeys(online, (request, b"")), ASK_TIMEOUT_S):
        if site not in answers:
            continue
        known = answers[site].model_copy(update={"online": True, "source": "unknown", "problems": ()})
        if isinstance(reply, SalusError):
            answers[site] = known  # no answer decides nothing
        elif reply.kind == "refused" and reply.error == "TooManyChecks":
            answers[site] = answers[site].model_copy(update={"online": True})  # what it declared before
        elif reply.kind == "refused":
            refusal = Problem(requirement="policy", text=reply.text[:MAX_TEXT])
            answers[site] = known.model_copy(update={"source": "asked", "problems": (refusal,)})
        else:
            answers[site] = _heard(known, blob, roster, checkpoints, clock)
    return _check(job, roster, answers, ", ".join(sorted(set(busy.values()))))


def _heard(known: SiteAnswer, blob: bytes, roster: Roster, checkpoints: Checkpoints, clock: Clock) -> SiteAnswer:
    try:
        verdict = read_verdict(blob)
    except SalusError as problem:
        unclear = Problem(requirement="policy", text=describe(problem)[:MAX_TEXT])
        return known.model_copy(update={"source": "asked", "problems": (unclear,)})
    at = clock.now().isoformat()
    checkpoints.put_declarations(roster.site(known.site).public_key, verdict.declarations, at)
    return known.model_copy(
        update={"source": "asked", "checked_at": at, "problems": verdict.problems, "declared": verdict.declarations}
    )


def remember_sites(job: Job, roster: Roster, online: set[int], checkpoints: Checkpoints, busy: str) -> Check:
    """Return what is known without asking any site."""
    answers = remembered(job, roster, online, checkpoints)
    return _check(job, roster, answers, busy)


def remembered(job: Job, roster: Roster, online: set[int], checkpoints: Checkpoints) -> dict[int, SiteAnswer]:
    """Compare each site's last known declarations with a job."""
    found: dict[int, SiteAnswer] = {}
    for site in roster.sites:
        heard = checkpoints.declarations(site.public_key)
        values: dict[str, Any] = {"site": site.id, "name": site.name, "online": site.id in online}
        if heard is None:
            found[site.id] = SiteAnswer(**values, source="unknown")
        else:
            declared, at = heard
            problems = tuple(problems_of(job, declared))
            found[site.id] = SiteAnswer(
                **values, source="remembered", checked_at=at, problems=problems, declared=declared
            )
    return found


def _check(job: Job, roster: Roster, answers: dict[int, SiteAnswer], busy: str) -> Check:
    needed = max(job.job.min_sites, protection_of(job).needed(job, len(roster.sites)))
    holder = key_holder_of(job)
    return Check(busy=busy, needed=needed, key_holder=holder, sites=tuple(answers.values()))


@dataclass
class _Question:
    """A check that waits for the daemon's own thread, the only one that may contact sites."""

    job: Job
    signed: Signed
    done: threading.Event = field(default_factory=threading.Event)
    answer: Check | None = None


class Checker:
    """Runs the checks of one coordinator: requested in the admin API's threads, answered in the daemon's.

    Args:
        turns: which job each site works for.
    """

    def __init__(
        self,
        roster: Callable[[], Roster],
        link: Link,
        checkpoints: Checkpoints,
        clock: Clock,
        events: EventSink,
        turns: Turns,
    ) -> None:
        self._roster, self._link, self._checkpoints = roster, link, checkpoints
        self._clock, self._events, self._turns = clock, events, turns
        self._waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()

    def check(self, job: Job, signed: Signed) -> Check:
        """Return the sites' answers, and what those that work for a job declared before."""
        question = _Question(job, signed)
        self._waiting.put(question)
        question.done.wait(WAIT_S)
        if question.answer is not None:
            return question.answer
        online = set(self._link.directory())
        return remember_sites(job, self._roster(), online, self._checkpoints, "another task")

    def answer(self, stopped: Callable[[], bool]) -> None:
        """Run the waiting checks; no site is asked in the middle of an attempt, because a refusal would end it."""
        while not self._waiting.empty():
            question = self._waiting.get()
            grid = self._link.begin_run()
            try:
                with self._free() as busy:
                    federation = GridFederation(grid, self._link.directory, stopped)
                    question.answer = ask_sites(
                        question.job, question.signed, self._roster(), federation, self._checkpoints, self._clock, busy
                    )
            except Exception as problem:  # a failed check never stops the coordinator
                self._events.emit("not-checked", error=type(problem).__name__, text=describe(problem))
            finally:
                grid.close()
                question.done.set()

    @contextmanager
    def _free(self) -> Iterator[Mapping[int, str]]:
        """Hold the sites that are free, and give the job of each other one."""
        everybody = self._roster().site_ids()
        with self._turns.hold_free(CHECK, everybody) as mine:
            busy = self._turns.busy()
            yield {site: busy.get(site, "another job") for site in everybody if site not in mine.sites}
