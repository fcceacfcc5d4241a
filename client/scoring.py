"""The finished model of a job of statistics, evaluated at a site on its held-out patients, who are in none of the job's sums.

As in training without noise, the rows of the evaluation hide no small cells: only its subgroups do.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from salus.client.grouping import GroupSums
from salus.common.errors import DataError
from salus.common.job import Job
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import nobody, to_entries
from salus.common.sums import sums_of
from salus.common.sums.base import Float64Vector, Measured
from salus.common.sums.exact import to_limbs
from salus.common.sums.scoring import Evaluated
from salus.common.sums.signed_model import MAX_MODEL_BYTES

Held = Iterable[tuple[Measured, tuple[int, ...]]]  # images with their groups


@dataclass
class Scores:
    """What a site adds to an evaluation.

    Args:
        size: length of a row.
    """

    groups: Groups
    size: int
    rows: torch.Tensor = field(init=False)
    _patients: list[list[int]] = field(init=False, default_factory=list)
    _places: list[tuple[int, ...]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.rows = torch.zeros(self.size, dtype=torch.float64)
        self._sums = GroupSums(self.groups, self.size)

    def add(self, evaluated: Evaluated, model: dict[str, Any], images: Held, room: int) -> int:
        """Add a patient's images, at most `room`; returns how many were added."""
        mine: list[int] = []
        for image, places in images:
            row = evaluated.evaluation_rows(model, image) if len(mine) < room else None
            if row is None:
                continue
            self.rows += row[0]
            self._sums.add(row, torch.tensor([places], dtype=torch.int64).reshape(1, -1))
            mine.append(len(self._places))
            self._places.append(places)
        if mine:
            self._patients.append(mine)
        return len(mine)

    def by_patient(self) -> list[list[int]]:
        """Return the positions of each patient's images."""
        return self._patients

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the groups of the images at these positions."""
        found = [self._places[int(row)] for row in rows]
        return torch.tensor(found, dtype=torch.int64).reshape(len(found), len(self.groups.attributes))

    def entries(self, job: Job, least: int, left_out: int) -> Float64Vector:
        """Return the numbers of an evaluation, each from 0 to 1, in the order of those of a training job."""
        bound = job.aggregation.max_patients
        used = np.array([len(self._patients), len(self._places), left_out, 0], dtype=float)
        grouped = self._sums.totals(self, least) if self._patients else nobody(self.groups, self.size)
        return np.concatenate([self.rows.numpy() / bound, to_limbs(used), to_entries(grouped, bound)])


def scored(
    job: Job, evaluated: Evaluated, groups: Groups, blob: bytes, patients: Iterable[Held], least: int
) -> tuple[int, Scores]:
    """Evaluate a model; returns the number of patients, 0 if there are fewer than `least`, and what they add.

    Args:
        blob: the model as JSON.
        patients: the images of each patient.

    Raises:
        DataError: the bytes are no model of the job, or it fails on an image.
    """
    model, size = _model(blob), evaluated.evaluation.statistics_size
    found, room = Scores(groups, size), job.aggregation.max_patients
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for images in patients:
                room -= found.add(evaluated, model, images, room)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        raise _none() from None
    count = len(found.by_patient())
    return (count, found) if count >= least else (0, Scores(groups, size))


def nothing(job: Job) -> Float64Vector:
    """Return the numbers of a site without held-out patients."""
    sums = sums_of(job)
    assert isinstance(sums, Evaluated)  # Safe because `sums_of` refuses to hold out patients for other kinds.
    return Scores(groups_of(job), sums.evaluation.statistics_size).entries(job, 1, 0)


def _model(blob: bytes) -> dict[str, Any]:
    try:
        model = json.loads(blob) if len(blob) <= MAX_MODEL_BYTES else None
    except (ValueError, RecursionError):
        model = None
    if not isinstance(model, dict):
        raise _none()
    return model


def _none() -> DataError:
    return DataError(
        "What was sent to be evaluated is no model of this job.",
        remedy="Ask the coordinator which version of Salus it runs.",
    )
