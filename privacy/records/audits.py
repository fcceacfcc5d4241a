"""What an ``audit.json`` says against the release of its job: another claim, numbers that do not fit, or a refuted promise."""

import math
from typing import Any

from salus.common.job import Job
from salus.common.package import layout
from salus.privacy.audit.one_run import CONFIDENCE, FEWEST_CANARIES, bound_of_counts

AUDIT_FORMAT = "salus/audit/1"
COUNTS = ("canaries", "guesses", "correct")
MOST_CANARIES = 20_000  # of `salus audit`; a file must not make the check slow
ROUNDING = 1e-3  # of a bound: the file has four decimal places


def audit_gaps(job: Job, found: Any) -> list[str]:
    """Return what stands against a release in the value of an ``audit.json``, a sentence; empty if nothing does.

    Whoever writes the file chooses its numbers, so this finds what contradicts itself, not what was made up as a whole.
    """
    if not isinstance(found, dict) or found.get("format") != AUDIT_FORMAT:
        return [f"{layout.AUDIT} is no audit of the format {AUDIT_FORMAT}"]
    if found.get("job_sha256") != job.digest().hex():
        return [f"{layout.AUDIT} is of another job"]
    bound: Any = found.get("lower_bound")
    if not _number(bound) or not 0 <= bound < math.inf:
        return [f"{layout.AUDIT} states no lower bound"]
    if found.get("confidence") != CONFIDENCE:
        return [f"{layout.AUDIT} is not of the confidence {CONFIDENCE:.0%}"]
    noised = job.privacy.noised
    claim, delta = (job.privacy.epsilon, job.privacy.delta) if noised else (None, 0.0)
    if not _same(found.get("claimed_epsilon"), claim) or not _same(found.get("delta"), delta):
        return [f"{layout.AUDIT} is of another claim than that of the job"]
    if claim is not None and bound > claim:
        return [f"the audit refutes the claim: epsilon is at least {bound:.2f}, the job promises {claim:g}"]
    if found.get("refuted") is not False:
        return [f"{layout.AUDIT} does not say that the claim is not refuted"]
    return _count_gaps(found, bound, delta, noised=noised)


def _count_gaps(found: dict[str, Any], bound: float, delta: float, *, noised: bool) -> list[str]:
    counts = [found.get(name) for name in COUNTS]
    if any(type(count) is not int for count in counts):
        return [f"{layout.AUDIT} does not state the numbers of canaries, guesses and correct guesses"]
    canaries, guesses, correct = (int(count) for count in counts if count is not None)
    if not (canaries <= MOST_CANARIES and 1 <= guesses <= canaries and 0 <= correct <= guesses):
        return [f"{layout.AUDIT} states numbers of guesses that cannot be"]
    if canaries < FEWEST_CANARIES:
        return [f"the audit had {canaries} canaries, at least {FEWEST_CANARIES} are needed"]
    follows = bound_of_counts(canaries, guesses, correct, delta, noised=noised)
    if abs(follows - bound) > ROUNDING:
        return [f"the lower bound in {layout.AUDIT} does not follow from its guesses, which show {follows:.2f}"]
    return []


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(stated: Any, wanted: float | None) -> bool:
    return stated is None if wanted is None else _number(stated) and bool(stated == wanted)
