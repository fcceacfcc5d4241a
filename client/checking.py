"""A site's answer to whether it could run a job: by its policy, its declarations and its budget (as yes or no)."""

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import TypeAdapter

from salus.client.data.approval import sentence
from salus.client.data.catalogue import Catalogue
from salus.client.data.grey_values import flat_here
from salus.client.ledger.store import Budget, Ledger
from salus.client.policy import OtherEpoch, Policy
from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.declaration import Declaration
from salus.common.errors import Refused, SalusError, describe
from salus.common.files import write_whole
from salus.common.fit import problems_of
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.verdict import MAX_PROBLEMS, MAX_TEXT, Problem, Requirement, Verdict
from salus.privacy.contribution import Kind
from salus.privacy.dp.accounting import epsilon
from salus.privacy.dp.plan import Plan, plan_of
from salus.privacy.protection import protection_of
from salus.privacy.protocol.session import Session

HOUR_S = 3600.0
TIMES = TypeAdapter(dict[str, list[float]])
NO_BUDGET = "The privacy budget of this site's patients does not allow the job; its operator sees the numbers."


class TooManyChecks(Refused):
    """This site answers no further check for now; the coordinator takes it for a site that did not answer."""


class CheckLimit:
    """Counts the checks about each data set within the last hour.

    Without a limit, a coordinator could find out by bisection how much of the patients' budget is left.

    Args:
        path: where the times are kept, so that no end of a process forgets them; None keeps them in memory.
    """

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self._clock, self._path = clock, path
        self._answered = self._stored()

    def admit(self, dataset: str, per_hour: int) -> None:
        """Count one check; raises TooManyChecks if `per_hour` were answered within the last hour."""
        now = self._clock.now().timestamp()
        for name, times in list(self._answered.items()):
            kept = [min(time, now) for time in times if time > now - HOUR_S]  # a clock set back frees nothing
            self._answered[name] = kept
            if not kept:
                del self._answered[name]
        answered = self._answered.setdefault(dataset, [])
        if len(answered) >= per_hour:
            raise TooManyChecks(
                f"This site answers at most {per_hour} checks about one data set in an hour.",
                remedy="Wait, or ask its operator to raise checks_per_hour in policy.toml.",
            )
        answered.append(now)
        if self._path is not None:
            write_whole(self._path, canonical_json(self._answered))

    def _stored(self) -> dict[str, list[float]]:
        try:
            return TIMES.validate_json(self._path.read_bytes()) if self._path is not None else {}
        except (OSError, ValueError):
            return {}  # the first start, or a file that only this site's own user can have damaged


def offered(catalogue: Catalogue, policy: Policy) -> dict[str, Declaration | None]:
    """Return the declarations of the data sets that the policy allows; the names of all others are not disclosed."""
    every = catalogue.declarations.all()
    return {name: found for name, found in every.items() if not policy.datasets or name in policy.datasets}


def verdict_on(job: Job, policy: Policy, catalogue: Catalogue, ledger: Ledger, sites: int, running: str) -> Verdict:
    """Return the reasons why this site would refuse a job; reserves nothing and reads no data.

    Args:
        sites: number of sites on the roster.
        running: the running job's name in the ledger, or empty; other jobs that have sent everything are closed first.
    """
    declarations = offered(catalogue, policy)
    problems = [
        _problem("epoch" if isinstance(refusal, OtherEpoch) else "policy", describe(refusal))
        for refusal in policy.objections(job)
    ]
    if not policy.datasets or job.task.dataset in policy.datasets:
        problems += problems_of(job, declarations)
        if catalogue.approvals.waiting(job.task.dataset):
            problems.append(_problem("data set", sentence(job.task.dataset)))
        flat = flat_here(job, catalogue.kind(job.task.dataset)) if job.task.dataset in catalogue.names() else ""
        problems += [_problem("images", flat)] if flat else []
    if not problems:
        problems += _protected(job, sites)
    if not problems:
        try:
            plan = plan_of(job)
        except SalusError as problem:
            problems.append(_problem("budget", describe(problem)))
        else:
            if plan is not None:
                ledger.close_finished(but=running)
                ledger.merge(catalogue.merges.all())
                if not ledger.allows(catalogue.patients(job.task.dataset), plan, policy.budget):
                    problems.append(_problem("budget", NO_BUDGET))
    return Verdict(problems=tuple(problems[:MAX_PROBLEMS]), declarations=declarations).fitting(job.task.dataset)


def limited_verdict(
    job: Job,
    policy: Policy,
    catalogue: Catalogue,
    ledger: Ledger,
    sites: int,
    running: str,
    limit: CheckLimit | None,
    ask: Callable[[Job], None],
) -> Verdict:
    """Return the verdict, see `verdict_on`, also about what was asked before about the same data.

    Args:
        ask: raises Refused for a job that asks in another way than an earlier one.

    Raises:
        TooManyChecks: this site answers no further check now.
    """
    if limit is not None:
        limit.admit(job.task.dataset if job.task.dataset in catalogue.names() else "", policy.checks_per_hour)
    verdict = verdict_on(job, policy, catalogue, ledger, sites, running)
    if verdict.fits:
        try:
            ask(job)
        except Refused as problem:  # an earlier job without noise asked in another way, which the coordinator knows
            verdict = verdict.model_copy(update={"problems": (_problem("epoch", describe(problem)),)})
    return verdict


def _protected(job: Job, sites: int) -> list[Problem]:
    """Return the problem with the job's protection, if there is one: too few sites, or sums that are too large."""
    try:
        protection_of(job).check(job, sites)
    except SalusError as problem:
        return [_problem("protection", describe(problem))]
    return []


def cost_of(job: Job, plan: Plan, budget: Budget) -> dict[str, str | float | int]:
    """Return how much of each patient's budget a job uses, computed at the budget's delta."""
    return {
        "job": job.job.name,
        "dataset": job.task.dataset,
        "epsilon": round(epsilon(plan.reserved(), budget.delta), 4),
        "delta": budget.delta,
        "budget_epsilon": budget.epsilon,
        "period_days": budget.period_days,
    }


def _problem(requirement: Requirement, text: str) -> Problem:
    return Problem(requirement=requirement, text=text[:MAX_TEXT])


def too_large(problem: str, remedy: str) -> Refused:
    """Return the refusal of a job that needs more memory than this site gives to one."""
    return Refused(problem, remedy=f"{remedy} The site's limit is max_job_memory_mb in site.toml.")


def check_round(request: Request, job: Job) -> None:
    """Raise Refused unless a job of this kind has such a request in this round."""
    expected: Kind = "measure" if job.statistics is not None else "train"
    if request.kind == expected and 1 <= request.round <= job.job.rounds:
        return
    evaluated = job.statistics is None or job.statistics.held_out > 0
    if evaluated and request.kind == "evaluate" and request.round == job.job.rounds + 1:
        return
    more = f" or evaluate in round {job.job.rounds + 1}" if evaluated else ""
    raise Refused(
        f"Expected {expected} in a round from 1 to {job.job.rounds}{more}, got {request.kind} in round {request.round}.",
        remedy="Sign a new job.",
    )


def check_sites(request: Request, job: Job, known: Collection[int], mine: int) -> None:
    """Raise Refused unless a request names enough different sites of the job's roster, this one among them.

    Args:
        known: the sites on the roster.
    """
    others = set(request.sites)
    if not others <= set(known) or mine not in others or len(others) < max(job.job.min_sites, len(request.sites)):
        raise Refused(
            f"Expected this site among at least {job.job.min_sites} different sites of the job's roster.",
            remedy="Wait until enough sites take part.",
        )


def scope_of(job: Job) -> str:
    """Return the scope in which all sums without noise must be over the same sites: data set and epoch."""
    return f"{job.task.dataset}/{job.job.cohort_epoch}"


def session_of(request: Request, manifest: bytes, model: bytes) -> Session:
    """Return the session of a request, over the model that this site received."""
    return Session(
        request.job_id, request.round, request.attempt, manifest, hashlib.sha256(model).digest(), request.sites
    )
