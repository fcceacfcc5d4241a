"""Boosted trees of random structure, for strong noise: only the values of leaves are learned, a few sums in all.

    values so far (public) ──> every site: derivatives in each leaf of some random trees, added ──> protected sum ──> their values

The divisions are drawn from the job's seed, so noise is spent on leaves alone (as in Maddock et al. 2022, "Federated boosted
decision trees with differential privacy", arXiv 2210.02910, which also adds several trees at once). A patient adds two
derivatives to one leaf of each tree of a round. The first round is by far the cheapest: before it all derivatives are known.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, small_cells
from salus.common.sums.binned import Bins, Rows, check_cells, gradients, owners, with_enough
from salus.common.sums.boosting import LONGEST, LogOddsOfTrees
from salus.common.sums.trees import FloatMatrix, Tree, margins, places, random_trees


class RandomBoostingSettings(Strict):
    """Settings of `random-boosting`.

    Args:
        trees: Trees of one round; all see the same derivatives.
        depth: Levels of each tree.
        learning_rate: Factor of each tree's values.
        l2: Penalty of the square of a leaf's value.
        intervals: Largest number of intervals of a numeric column, between which a division may be.
    """

    trees: Annotated[int, Field(ge=1, le=500)] = 100  # one round of them was the best on the heart data at epsilon 1
    depth: Annotated[int, Field(ge=1, le=6)] = 2
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05  # the values of a round are added
    l2: Annotated[float, Field(ge=1e-3, le=1e6)] = 5.0
    intervals: Annotated[int, Field(ge=2, le=64)] = 16


class RandomBoosting(LogOddsOfTrees):
    """Boosted random trees for two classes, `trees` of them for each round of the job."""

    Settings = RandomBoostingSettings

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._own = own = settings_of(job.statistics, RandomBoostingSettings)
        super().__init__(job.task, Bins(job, own.intervals))
        self.steps, self._leaves = job.job.rounds, 1 << own.depth
        check_cells(self.steps * own.trees * self._leaves * 2)
        self._trees = random_trees(job.job.seed, self.steps * own.trees, own.depth, self._bins)

    def state_size(self, step: int) -> int:
        return int((step - 1) * self._own.trees * self._leaves)

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(2 * self._leaves, "whole")] * self._own.trees

    def reach(self, step: int) -> float:
        # Before the first step both classes have probability 1/2, so the derivatives are exactly 1/2 and 1/4.
        longest = math.sqrt(1 / 4 + 1 / 16) if step == 1 else LONGEST
        return longest * math.sqrt(self._own.trees)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return a patient's derivatives, at the patient's leaf of each tree."""
        rows = self._bins.rows([[image]])
        return self._sums(step, state, rows, 1).reshape(-1) if rows.patients else None

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums in the leaves, without the leaves in which too few patients of the site are."""
        rows = with_enough(self._bins.rows(patients), self._bins, least)
        if rows.patients < least or not rows.patients:
            return np.zeros(2 + self._own.trees * self._leaves * 2)
        sums = self._sums(step, state, rows, least)
        return np.concatenate([[rows.patients, len(rows.labels)], sums.reshape(-1)])

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the values of all leaves so far."""
        sums = totals.cells.reshape(self._own.trees, self._leaves, 2)
        # Noise may make a leaf look empty, so each has at least the weight of the noise.
        weight = np.maximum(sums[..., 1], 0.0) + self._own.l2 + totals.noise_sd
        values = -self._own.learning_rate * sums[..., 0] / weight
        return [*state, *(float(value) for value in values.reshape(-1))]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the trees, with edges in the columns' own units."""
        return self.document("random-boosting", self._known(state))

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state)}

    def _known(self, state: Sequence[float]) -> list[Tree]:
        values = np.asarray(state, dtype=np.float64).reshape(-1, self._leaves, 1)
        return [replace(tree, leaves=leaves) for tree, leaves in zip(self._trees, values, strict=False)]

    def _sums(self, step: int, state: Sequence[float], rows: Rows, least: int) -> FloatMatrix:
        """Return the sums of derivatives, ``[trees, leaves, 2]``."""
        missing, first = self._bins.missing, (step - 1) * self._own.trees
        derivatives = gradients(margins(self._known(state), rows.bins, missing).tolist(), rows.labels.tolist())
        found = np.zeros((self._own.trees, self._leaves, 2))
        for own, tree in zip(found, self._trees[first : first + self._own.trees], strict=True):
            leaves = places(tree, rows.bins, missing, self._own.depth)
            np.add.at(own, leaves, derivatives)
            own[small_cells(owners(rows, leaves, self._leaves), least)] = 0.0
        return found
