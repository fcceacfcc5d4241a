"""A forest of random structure: divisions drawn from public numbers, and one protected sum of the classes in every leaf.

    job's seed ──> the same random trees everywhere ──> every site: patients of each class in each leaf, added ──> the forest

Geurts, Ernst and Wehenkel 2006 ("Extremely randomized trees", Machine Learning 63; here the totally random ones); under noise
Jagannathan, Pillaipakkamnatt and Wright 2009 ("A practical differentially private random decision tree classifier"). No division
depends on a patient, so all that is learned is one sum, in which a patient adds one to one leaf of each tree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, small_cells
from salus.common.sums.binned import Bins, check_cells, owners, with_enough
from salus.common.sums.scoring import FromLogits
from salus.common.sums.trees import leaf_of, places, random_trees, to_json


class ForestSettings(Strict):
    """Settings of `forest`.

    Args:
        trees: Number of trees. Under noise, more trees mean more noise in each leaf.
        depth: Levels of each tree.
        smoothing: Patients that every leaf has in addition, divided among the classes as all patients are.
        intervals: Largest number of intervals of a numeric column, between which a division may be.
    """

    trees: Annotated[int, Field(ge=1, le=2000)] = 300  # the AUC on the heart data grows little beyond
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    smoothing: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    intervals: Annotated[int, Field(ge=2, le=64)] = 16


class Forest(FromLogits):
    """Random trees for any number of classes, in one round."""

    Settings = ForestSettings
    headline: ClassVar[Sequence[str]] = ("auc", "accuracy")
    steps = 1

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._task, self._own = job.task, settings_of(job.statistics, ForestSettings)
        self._bins, self._classes = Bins(job, self._own.intervals), len(job.task.classes)
        self._leaves = 2**self._own.depth
        check_cells(self._own.trees * self._leaves * self._classes)
        self._trees = random_trees(job.job.seed, self._own.trees, self._own.depth, self._bins, self._classes)

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(self._leaves * self._classes, "named")] * self._own.trees

    def reach(self, step: int) -> float:
        return math.sqrt(self._own.trees)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return a one in each tree, at the patient's leaf and class."""
        if image.label is None:
            return None
        row = np.zeros((self._own.trees, self._leaves, self._classes))
        bins = self._bins.of(self._bins.values(image))[None]
        for number, tree in enumerate(self._trees):
            row[number, places(tree, bins, self._bins.missing, self._own.depth)[0], image.label] = 1.0
        return row.reshape(-1)

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the counts of the site's patients, tree by tree; in each tree small cells are set to zero."""
        rows = with_enough(self._bins.rows(patients), self._bins, least)
        size = self._leaves * self._classes
        found = np.zeros((self._own.trees, size))
        if rows.patients < least or not rows.patients:
            return np.zeros(2 + found.size)
        for own, tree in zip(found, self._trees, strict=True):
            cells = places(tree, rows.bins, self._bins.missing, self._own.depth) * self._classes + rows.labels
            own[:] = np.bincount(cells, minlength=size)
            own[small_cells(owners(rows, cells, size), least)] = 0.0
        return np.concatenate([[rows.patients, len(rows.labels)], found.reshape(-1)])

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the probabilities of the classes in every leaf."""
        counts = np.maximum(totals.cells.reshape(self._own.trees, self._leaves, self._classes), 0.0)
        classes = counts.sum(axis=(0, 1)) + 1e-9
        counts = counts + self._own.smoothing * classes / classes.sum()
        return [float(value) for value in (counts / counts.sum(axis=2, keepdims=True)).reshape(-1)]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the trees with the probabilities of their leaves, with edges in the columns' own units."""
        shares = np.asarray(state).reshape(self._own.trees, self._leaves, self._classes)
        trees = [replace(tree, leaves=leaves) for tree, leaves in zip(self._trees, shares, strict=True)]
        return {
            "kind": "forest",
            "classes": list(self._task.classes),
            "columns": self._bins.names,
            "trees": to_json(trees, self._bins),
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state)}

    def _logits(self, model: Mapping[str, Any], image: Measured) -> Float64Vector:
        values = self._bins.values(image)
        shares: Float64Vector = np.mean([leaf_of(tree, values) for tree in model["trees"]], axis=0)
        return np.log(np.maximum(shares, 1e-12))
