"""All attacks on one job: against one site's plain update, against the sum over the sites, and against what the job releases."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from salus.client.performance import Performance
from salus.common.errors import ConfigError, JobError
from salus.common.job import Job
from salus.privacy.audit.one_run import Found
from salus.privacy.protection import protection_of
from salus.privacy.protocol.parameters import SMALLEST_COHORT
from salus.server.checkpoints import Checkpoints
from salus.simulations.auditing.imprint import imprint
from salus.simulations.auditing.one_run import flipped, found, guessed, run_with
from salus.simulations.auditing.report import GUESSING, MASKED, NOISED, PLAIN, Audit, Tried
from salus.simulations.auditing.world import Round

ATTACK = "one-run audit"
ROUNDS_WITHOUT_NOISE = 5  # enough to show what noise buys; every further round only tells more
Vector = npt.NDArray[np.float64]


class Tell(Protocol):
    """Shows progress."""

    def __call__(self, what: str, done: int, of: int) -> None:
        """Say how many rounds of a step are done."""


@dataclass(frozen=True)
class Target:
    """A job and the hospitals over which it is audited.

    Args:
        hospitals: folder with ``site-<n>/catalogue.sqlite``.
    """

    job: Job
    hospitals: Path
    sites: int


def finished_run(run: Path, folder: Path) -> Target:
    """Return the job of a finished simulation, over copies of its catalogues, so that nothing in its folder changes.

    Raises:
        ConfigError: the folder is not one of `salus simulate --output`.
    """
    if not (run / "coordinator" / "coordinator.sqlite").is_file():
        raise ConfigError(
            f"Expected a folder of `salus simulate --output`, but {run.name!r} holds no finished job.",
            remedy="Give a job file with --data, or the folder of a simulation.",
        )
    copied = folder / "copied"
    shutil.copytree(run / "coordinator", copied / "coordinator", ignore=shutil.ignore_patterns("models"))
    jobs = Checkpoints(copied / "coordinator").jobs()
    if not jobs:
        raise ConfigError(f"The folder {run.name!r} holds no job.", remedy="Run the simulation again.")
    sites = sorted(int(place.name.partition("-")[2]) for place in run.glob("site-*") if place.is_dir())
    for site in sites:
        (copied / f"site-{site}").mkdir()
        for file in (run / f"site-{site}").glob("catalogue.sqlite*"):
            shutil.copy2(file, copied / f"site-{site}")
    return Target(jobs[-1].job, copied, len(sites))


def without_noise(job: Job) -> Job:
    """Return a job with the same model and task, a few rounds, and no noise."""
    rounds = min(job.job.rounds, ROUNDS_WITHOUT_NOISE)
    return job.model_copy(
        update={
            "job": job.job.model_copy(update={"rounds": rounds}),
            "privacy": job.privacy.model_copy(update={"noise": "none", "steps_per_round": None}),
        }
    )


def own(one: Round) -> Vector:
    """Return one site's update, as the coordinator reads it without protection."""
    return one.own


def total(one: Round) -> Vector:
    """Return the sum over all sites."""
    return one.total


def views(job: Job) -> list[tuple[str, Callable[[Round], Vector], str]]:
    """Return what attackers see of a job: its name on the page, how to take it from a round, and a note."""
    if not job.privacy.noised:
        return [(PLAIN, own, "one site's update, unprotected"), (MASKED, total, "the sum over all sites")]
    if job.privacy.noise == "local":
        return [(NOISED, own, "one site's noised update: what all others together can take out of the sum")]
    return [(NOISED, total, "the noised sum over all sites")]


def audit(
    target: Target,
    folder: Path,
    *,
    canaries: int,
    seed: int,
    confidence: float = 0.95,
    performance: Performance,
    tell: Tell = lambda what, done, of: None,
) -> Audit:
    """Try every attack on a job.

    Args:
        folder: empty, for the runs; it can be removed afterwards.
        canaries: number of coin flips.
        tell: called with a text, the rounds that are done and all rounds of the present step.

    Raises:
        JobError: a job that trains no model.
        SalusError: anything that would also stop a real federation.
    """
    job = target.job
    if job.statistics is not None:
        raise JobError(
            "A statistics job trains no model, so there is nothing to audit.", remedy="Audit a training job."
        )
    coins = flipped(job, canaries, seed)
    bare, tried = without_noise(job), []
    results: dict[str, Found] = {}
    for which in [bare, job] if job.privacy.noised else [job]:
        if which is bare and _too_few(target):
            why = f"not tried: a masked sum without noise needs {SMALLEST_COHORT} sites"
            tried += [Tried(ATTACK, against, GUESSING, None, 0.0, why) for against, *_ in views(bare)]
            continue
        name = "canaries, with noise" if which.privacy.noised else "canaries, without noise"
        rounds = which.job.rounds
        seen = run_with(
            which, coins, target.hospitals, folder / name, sites=target.sites, performance=performance,
            done=functools.partial(tell, name, of=rounds),
        )  # fmt: skip
        for against, view, text in views(which):
            results[against] = result = found(which, coins, guessed(which, coins, seen, view, target.sites), confidence)
            note = f"{text}; {rounds} rounds; {result.correct} of {result.guesses} guesses were correct"
            tried.append(Tried(ATTACK, against, GUESSING, round(result.lower_bound, 4), 0.0, note))
    tell("imprint layer", 0, 1)
    tried += imprint(
        job, bare, target.hospitals, folder / "imprint", sites=target.sites, performance=performance,
        noise_free=not _too_few(target),
    )  # fmt: skip
    best = NOISED if job.privacy.noised else MASKED if protection_of(job).protects else PLAIN
    return Audit(job, results[best], confidence, tried, target.sites, seed)


def _too_few(target: Target) -> bool:
    return target.sites < SMALLEST_COHORT and target.job.aggregation.protection == "masking"
