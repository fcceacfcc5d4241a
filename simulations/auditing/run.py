"""All attacks on one job: against one site's plain update, against the sum over the sites, and against what the job releases."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from salus.client.performance import Performance
from salus.common.errors import JobError, SalusError
from salus.common.job import Job
from salus.privacy.audit.one_run import CONFIDENCE
from salus.privacy.protocol.parameters import SMALLEST_COHORT
from salus.simulations.auditing import ATTACKS, ORDER
from salus.simulations.auditing.asked import Asked, Attack, Target
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Audit, Tried

ROUNDS_WITHOUT_NOISE = 5  # enough to show what noise buys; every further round only tells more


class Tell(Protocol):
    """Shows progress."""

    def __call__(self, attack: str, done: int, of: int) -> None:
        """Say how many steps of an attack on one job are done."""


@dataclass(frozen=True)
class Effort:
    """How much an audit tries.

    Args:
        attacks: names of `ATTACKS`.
        canaries: coin flips of the one-run audit.
        shadows: shadow models of membership inference.
    """

    attacks: Sequence[str]
    canaries: int = 500
    shadows: int = 5
    confidence: float = CONFIDENCE


def all_attacks() -> list[str]:
    """Return the names of all attacks in the order of the page."""
    names = ATTACKS.names()
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def chosen_attacks(names: str) -> list[str]:
    """Return the attacks that a person chose, separated by commas; all for an empty text.

    Raises:
        ConfigError: a name that is not known.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        ATTACKS.reference(name)
    return [name for name in all_attacks() if name in wanted or not wanted]


def without_noise(job: Job) -> Job:
    """Return a job with the same model and task, a few rounds, and no noise."""
    rounds = min(job.job.rounds, ROUNDS_WITHOUT_NOISE)
    return job.model_copy(
        update={
            "job": job.job.model_copy(update={"rounds": rounds}),
            "privacy": job.privacy.model_copy(update={"noise": "none", "steps_per_round": None}),
        }
    )


def audit(
    target: Target,
    folder: Path,
    effort: Effort,
    *,
    seed: int,
    performance: Performance,
    tell: Tell = lambda attack, done, of: None,
    about: str = "",
) -> Audit:
    """Try every attack on a job; one that cannot be tried is told, with the reason, and ends nothing.

    Args:
        folder: empty, for the runs; it can be removed afterwards.
        tell: called with an attack's name, and the steps that are done and all steps on the present job.
        about: for the page.

    Raises:
        JobError: a job that trains no model.
        SalusError: no attack at all could be tried; the reason of the first.
    """
    job = target.job
    if job.statistics is not None:
        raise JobError(
            "No attack on jobs of statistics is known to salus audit.",
            remedy="Audit a training job. A model from sums without noise is released with a --reason instead.",
        )
    bare = without_noise(job)
    jobs: list[tuple[Job, list[str]]] = [(bare, [PLAIN, MASKED]), (job, [NOISED])]
    tried: list[Tried] = []
    seconds: dict[str, float] = {}
    problems: list[Exception] = []
    for name in effort.attacks:
        attack: Attack = ATTACKS.get(name)()
        started = time.monotonic()
        for which, against in jobs if job.privacy.noised else [(job, [PLAIN, MASKED])]:

            def told(done: int, of: int, title: str = attack.title) -> None:
                tell(title, done, of)

            told(0, 1)
            asked = Asked(
                job, which, against, target, folder / name / against[-1].replace(" ", "-"), performance, seed,
                effort.canaries, effort.shadows, effort.confidence, told,
            )  # fmt: skip
            tried += _tried(attack, asked, problems)
        seconds[attack.title] = time.monotonic() - started
    if problems and all(one.value is None for one in tried):
        raise problems[0]
    return Audit(job, effort.confidence, tried, target.sites, seed, seconds, about)


def _tried(attack: Attack, asked: Asked, problems: list[Exception]) -> list[Tried]:
    """Return the answers of an attack, or why it was not tried."""
    masked = asked.job.aggregation.protection == "masking" and not asked.job.privacy.noised
    why = (
        f"a masked sum without noise needs {SMALLEST_COHORT} sites" if masked and asked.sites < SMALLEST_COHORT else ""
    )
    try:
        why = attack.objection(asked.job) or why
        if not why:
            found = attack.tried(asked)
            if all(one.value is None or math.isfinite(one.value) for one in found):
                return found
            why = "the attack found no number, such as after training that diverged"
    except SalusError as problem:  # such as a site's limit of memory
        problems.append(problem)
        why = problem.problem
    except Exception as problem:  # of a plug-in, or of a network that an attack was not written for
        problems.append(problem)
        why = f"the attack failed ({type(problem).__name__})"
    text = f"not tried: {why}"
    return [Tried(attack.title, against, attack.figure, None, attack.nothing, text) for against in asked.against]
