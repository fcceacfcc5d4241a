"""Prints what a coordinator computes of each job's task and sums; run with and without torch, the output is the same.

Arguments: job files.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from salus.common.job import Job, load_job
from salus.common.strategies import strategy_of
from salus.common.sums import sums_of
from salus.common.sums.base import cells_of
from salus.common.tasks import make_task
from salus.privacy.dp.plan import plan_of
from salus.privacy.protection import protection_of
from salus.server.evaluating import EvaluationSums
from salus.server.exactness import exactness

PARAMETERS = 1000


def computed(job: Job) -> dict[str, Any]:
    """Return what the coordinator computes of a job, from made-up sums."""
    protection_of(job).check(job, 5, PARAMETERS)
    found: dict[str, Any] = {"plan": repr(plan_of(job)), "exactness": exactness(job, 5)}
    if job.statistics is not None:
        sums = sums_of(job)
        return found | {"cells": [cells_of(sums, step) for step in range(1, sums.steps + 1)]}
    task, random = make_task(job.task), np.random.default_rng(1)
    assert EvaluationSums(job, task, 5)
    totals = random.uniform(1.0, 50.0, task.statistics_size)
    noisy = random.uniform(1.0, 50.0, task.private_statistics_size)
    return found | {
        "strategy": repr(strategy_of(job).init(PARAMETERS)),
        "metrics": task.metrics(totals),
        "empty": task.metrics(np.zeros(task.statistics_size)),
        "figures": task.figures(totals).model_dump(mode="json"),
        "private": repr(task.private_metrics(noisy, 0.5)),
        "private_figures": task.private_figures(noisy, 0.5).model_dump(mode="json"),
    }


if __name__ == "__main__":
    for place in map(Path, sys.argv[1:]):
        print(json.dumps({place.name: computed(load_job(place))}, default=float))
