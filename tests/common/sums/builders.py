"""Images of several hospitals, whole and divided, and jobs of statistics over them."""

from collections.abc import Sequence

import numpy as np

from salus.common.job import Job, parse_job
from salus.common.sums import sums_of
from salus.common.sums.base import Measured, Sums, Totals
from salus.common.sums.exact import from_limbs, to_limbs

Patients = list[list[Measured]]
JOB = """
[job]
name = "measure"
rounds = {rounds}
[task]
dataset = "toy"
classes = ["no", "yes"]
{task}
[aggregation]
protection = "none"
[privacy]
{privacy}
[statistics]
kind = "{kind}"
intensity_low = 0.0
intensity_high = 1000.0
{statistics}
"""


def job_of(kind: str, *, rounds: int = 1, statistics: str = "", task: str = "", privacy: str = 'noise = "none"') -> Job:
    """Return a job of statistics."""
    return parse_job(JOB.format(kind=kind, rounds=rounds, statistics=statistics, task=task, privacy=privacy))


def hospitals(seed: int = 0, sizes: Sequence[int] = (9, 14, 30)) -> list[Patients]:
    """Return hospitals of different scale, prevalence and vendors, with one to three images per patient."""
    rng = np.random.default_rng(seed)
    found: list[Patients] = []
    for number, size in enumerate(sizes):
        patients: Patients = []
        for _ in range(size):
            label = int(rng.random() < 0.2 + 0.3 * number)
            vendor = "GE" if rng.random() < 0.5 else "SIEMENS"
            images = []
            for _ in range(int(rng.integers(1, 4))):
                base = rng.gamma(2.0 + label, 40.0 * (1 + number), size=(1, 12, 10 + number)) + 30 * number
                images.append(
                    Measured(label, np.clip(base, 0, 999).astype(np.float32), (0.5 + number, 0.7), "CT", vendor)
                )
            patients.append(images)
        found.append(patients)
    return found


def federated(sums: Sums, parts: Sequence[Patients], least: int = 1) -> tuple[list[float], Totals]:
    """Return the last state and totals of sums over divided data, through the exact encoding of each part."""
    state: list[float] = []
    for step in range(1, sums.steps + 1):
        entries = [to_limbs(sums.measure(step, state, part, least)) for part in parts]
        numbers = from_limbs(np.sum(entries, axis=0))
        totals = Totals(float(numbers[0]), float(numbers[1]), float(numbers[1]), numbers[2:])
        state = sums.fold(step, state, totals)
        assert step == sums.steps or len(state) == sums.state_size(step + 1)
    return state, totals


def built(kind: str, **changes: object) -> Sums:
    """Return the sums of a job."""
    return sums_of(job_of(kind, **changes))  # type: ignore[arg-type]
