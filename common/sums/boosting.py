"""Gradient-boosted trees by histograms: the same trees as with all patients in one place, to the last bit.

    trees so far (public) ──> every site: first and second derivatives in each interval of each column and node, added
                          ──> protected sum ──> the divisions of one level of one tree

Friedman 2001 ("Greedy function approximation", Ann. Statist. 29(5)); gain, penalty and side of missing values as in XGBoost
(Chen and Guestrin 2016, arXiv 1603.02754, equation 7 and algorithm 3). Edges are public, and a patient's derivatives are
multiples of 2^-24, so their sum is exact in any order. Merged small cells depend on how patients are divided among sites;
equality to the last bit holds where no cell is small (``min_patients = 1``).

Not proven here: without noise, the sums of two levels or trees can be subtracted, and a difference may be due to one patient.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import Job, TaskSettings
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import (
    Block,
    Float64Vector,
    Measured,
    Patients,
    Totals,
    neighbours,
    small_cells,
)
from salus.common.sums.binned import Bins, IntArray, Rows, check_cells, gradients, owners
from salus.common.sums.scoring import FromLogits, binary_logits
from salus.common.sums.trees import (
    COLUMN,
    FloatMatrix,
    Tree,
    empty,
    from_state,
    importance,
    leaf_of,
    margins,
    places,
    size_of,
    to_json,
    to_state,
)

LONGEST = math.sqrt(1 + 1 / 16)  # of both derivatives of one patient: at most 1 and 1/4


class BoostingSettings(Strict):
    """Settings of `boosting`.

    Args:
        trees: Number of trees; rounds must be trees times depth.
        depth: Levels of each tree; each is one round.
        learning_rate: Factor of each tree's values.
        l2: Penalty of the square of a leaf's value, called lambda in XGBoost.
        min_child_weight: Smallest sum of second derivatives on either side of a division; a patient adds at most 1/4.
        intervals: Largest number of intervals of a numeric column.
    """

    trees: Annotated[int, Field(ge=1, le=500)] = 30  # .887 on the heart data of four hospitals, and quick
    depth: Annotated[int, Field(ge=1, le=6)] = 2
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    l2: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0  # as in XGBoost
    min_child_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0  # as in XGBoost
    intervals: Annotated[int, Field(ge=2, le=64)] = 16


class LogOddsOfTrees(FromLogits):
    """A model that is a sum of trees, the logarithm of the odds of the second class; fulfils `Scored`."""

    headline: ClassVar[Sequence[str]] = ("auc", "accuracy")

    def __init__(self, task: TaskSettings, bins: Bins) -> None:
        if len(task.classes) != 2:
            raise JobError(
                "Expected two classes for boosted trees.",
                remedy="List the class whose odds are modelled second; statistics of kind 'forest' take any number.",
            )
        self._task, self._bins = task, bins

    def document(self, kind: str, trees: Sequence[Tree]) -> dict[str, Any]:
        """Return the model as plain JSON."""
        found = to_json(trees, self._bins)
        return {
            "kind": kind,
            "classes": list(self._task.classes),
            "columns": self._bins.names,
            "trees": found,
            "importance": importance(found, self._bins.names),
        }

    def _logits(self, model: Mapping[str, Any], image: Measured) -> Float64Vector:
        values = self._bins.values(image)
        return binary_logits(sum(leaf_of(tree, values)[0] for tree in model["trees"]))


class Boosting(LogOddsOfTrees):
    """Boosted trees for two classes, one level of one tree for each round of the job."""

    Settings = BoostingSettings

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._own = own = settings_of(job.statistics, BoostingSettings)
        super().__init__(job.task, Bins(job, own.intervals))
        self.steps, self._size = own.trees * own.depth, size_of(own.depth)
        check_cells(2 ** (own.depth - 1) * self._bins.cells * 2)

    def state_size(self, step: int) -> int:
        return math.ceil((step - 1) / self._own.depth) * self._size

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(2 ** self._level(step) * self._bins.cells * 2, "whole")]

    def reach(self, step: int) -> float:
        return LONGEST * math.sqrt(len(self._bins.names))

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return a patient's derivatives, in one interval of each column of the node."""
        rows = self._bins.rows([[image]])
        if not rows.patients:
            return None
        cells: Float64Vector = self._histograms(step, state, rows)[0].reshape(-1)
        return cells

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the histograms; small nodes are left out, and small neighbouring intervals merged."""
        rows = self._bins.rows(patients)
        nodes, cells = 2 ** self._level(step), self._bins.cells
        if rows.patients < least or not rows.patients:
            return np.zeros(2 + nodes * cells * 2)
        sums, node = self._histograms(step, state, rows)
        total = np.zeros((nodes, cells, 2))
        small = small_cells(owners(rows, node, nodes), least)
        for number in np.flatnonzero(~small):
            for column, start in enumerate(self._bins.starts[:-1]):
                here = slice(start, self._bins.starts[column + 1])
                inside = np.where(node == number, rows.bins[:, column], -1)
                for group in neighbours(owners(rows, inside, here.stop - here.start), least):
                    part = sums[number, here][group]
                    total[number, here][group] = part.sum(axis=0) / len(part)
        return np.concatenate([[rows.patients, len(rows.labels)], total.reshape(-1)])

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the trees with the divisions of one more level."""
        level, trees = self._level(step), from_state(state, self._own.depth)
        if level == 0:
            trees.append(empty(self._own.depth))
        trees[-1] = self._divided(trees[-1], level, totals.cells.reshape(2**level, self._bins.cells, 2))
        return to_state(trees)

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the trees, with edges in the columns' own units."""
        return self.document("boosting", from_state(state, self._own.depth))

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state)}

    def _level(self, step: int) -> int:
        return (step - 1) % self._own.depth

    def _histograms(self, step: int, state: Sequence[float], rows: Rows) -> tuple[FloatMatrix, IntArray]:
        """Return sums of derivatives, ``[nodes, cells, 2]`` with the cells of all columns in turn, and each row's node."""
        level, trees = self._level(step), from_state(state, self._own.depth)
        done = trees[:-1] if level else trees
        node = np.zeros(len(rows.bins), dtype=np.int64)
        if level:
            node = places(trees[-1], rows.bins, self._bins.missing, level)
        derivatives = gradients(margins(done, rows.bins, self._bins.missing).tolist(), rows.labels.tolist())
        found = np.zeros((2**level, self._bins.cells, 2))
        for column, start in enumerate(self._bins.starts[:-1]):
            np.add.at(found, (node, start + rows.bins[:, column]), derivatives)
        return found, node

    def _divided(self, tree: Tree, level: int, sums: FloatMatrix) -> Tree:
        nodes, leaves = tree.nodes.copy(), tree.leaves.copy()
        for number, own in enumerate(sums):
            node, sides = self._division(own)
            nodes[2**level - 1 + number] = node
            if level == self._own.depth - 1:
                leaves[2 * number : 2 * number + 2, 0] = [self._value(side) for side in sides]
        return replace(tree, nodes=nodes, leaves=leaves)

    def _division(self, sums: FloatMatrix) -> tuple[list[float], FloatMatrix]:
        """Return the node with the largest gain, the first among equals, and the sums of its two sides."""
        best, sides = [-1.0, 0.0, 0.0, 0.0], np.zeros((2, 2))
        for column, start in enumerate(self._bins.starts[:-1]):
            cells = sums[start : self._bins.starts[column + 1]]
            whole = cells.sum(axis=0)
            if best[COLUMN] < 0 and whole[1] > sides[0, 1]:
                sides = np.stack([whole, np.zeros(2)])  # where nothing is divided, all go left
            below = np.cumsum(cells[:-2], axis=0)
            for missing_left in (0, 1):
                left = below + missing_left * cells[-1]
                right = whole - left
                gains = self._strength(left) + self._strength(right) - self._strength(whole)
                light = np.minimum(left[:, 1], right[:, 1]) < max(self._own.min_child_weight, 1e-9)
                gains = np.where(light, 0.0, gains)
                if len(gains) and gains.max() > best[3]:
                    cut = int(gains.argmax())
                    best = [float(column), float(cut), float(missing_left), float(gains[cut])]
                    sides = np.stack([left[cut], right[cut]])
        return best, sides

    def _strength(self, sums: FloatMatrix) -> FloatMatrix:
        result: FloatMatrix = sums[..., 0] ** 2 / (np.maximum(sums[..., 1], 0.0) + self._own.l2)
        return result

    def _value(self, side: Float64Vector) -> float:
        return float(-self._own.learning_rate * side[0] / (max(float(side[1]), 0.0) + self._own.l2))
