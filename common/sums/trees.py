"""Trees of decisions of a fixed depth: as public numbers between steps, as plain JSON, and applied to rows.

A node sends a row to the left if its value is below the node's edge; a missing value goes where the node says. A node that does
not divide sends all rows to the left. Node ``i`` of a level has the children ``2 i`` and ``2 i + 1``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.common.sums.base import Float64Vector
from salus.common.sums.binned import Bins, IntArray

FloatMatrix = npt.NDArray[np.float64]
COLUMN, CUT, MISSING_LEFT, GAIN = range(4)
NONE = -1.0  # as a column: the node does not divide


@dataclass(frozen=True)
class Tree:
    """One tree.

    Args:
        nodes: column, number of the edge, whether missing values go left, and gain, ``[2^depth - 1, 4]`` level by level.
        leaves: values, ``[2^depth, outputs]``.
    """

    nodes: FloatMatrix
    leaves: FloatMatrix


def size_of(depth: int, outputs: int = 1) -> int:
    """Return how many public numbers a tree takes."""
    return int(4 * (2**depth - 1) + outputs * 2**depth)


def empty(depth: int, outputs: int = 1) -> Tree:
    """Return a tree that divides nothing and says 0."""
    nodes = np.zeros((2**depth - 1, 4))
    nodes[:, COLUMN] = NONE
    return Tree(nodes, np.zeros((2**depth, outputs)))


def to_state(trees: Sequence[Tree]) -> list[float]:
    """Return trees as plain numbers."""
    return [float(value) for tree in trees for part in (tree.nodes, tree.leaves) for value in part.reshape(-1)]


def from_state(state: Sequence[float], depth: int, outputs: int = 1) -> list[Tree]:
    """Return the trees of a state."""
    inner, size = 4 * (2**depth - 1), size_of(depth, outputs)
    rows = np.asarray(state, dtype=np.float64).reshape(-1, size)
    return [Tree(row[:inner].reshape(-1, 4), row[inner:].reshape(-1, outputs)) for row in rows]


def places(tree: Tree, bins: IntArray, missing: IntArray, levels: int) -> IntArray:
    """Return in which node of a level each row is, ``[rows]``; the level after the last are the leaves.

    Args:
        bins: numbers of intervals, ``[rows, columns]``.
        missing: the number that means missing, for each column.
    """
    place = np.zeros(len(bins), dtype=np.int64)
    for level in range(levels):
        nodes = tree.nodes[2**level - 1 + place]
        column = nodes[:, COLUMN].astype(np.int64)
        number = bins[np.arange(len(bins)), np.maximum(column, 0)]
        left = np.where(number == missing[np.maximum(column, 0)], nodes[:, MISSING_LEFT] > 0, number <= nodes[:, CUT])
        place = 2 * place + ~(left | (column < 0))
    return place


def margins(trees: Sequence[Tree], bins: IntArray, missing: IntArray) -> Float64Vector:
    """Return the sum of the trees' values for each row, ``[rows]``, added in the order of the trees."""
    total = np.zeros(len(bins))
    for tree in trees:
        depth = len(tree.leaves).bit_length() - 1
        total = total + tree.leaves[places(tree, bins, missing, depth), 0]
    return total


def random_trees(seed: int, count: int, depth: int, bins: Bins, outputs: int = 1) -> list[Tree]:
    """Return trees whose divisions are drawn from public numbers only: columns, edges and sides of missing values."""
    rng = np.random.default_rng(seed)
    usable = [place for place, edges in enumerate(bins.edges) if len(edges)]
    found = []
    for _ in range(count):
        tree = empty(depth, outputs)
        for node in tree.nodes if usable else ():
            column = usable[int(rng.integers(len(usable)))]
            node[:GAIN] = column, rng.integers(len(bins.edges[column])), rng.integers(2)
        found.append(tree)
    return found


def to_json(trees: Sequence[Tree], bins: Bins) -> list[dict[str, Any]]:
    """Return trees as plain JSON, with edges in the columns' own units."""
    found = []
    for tree in trees:
        columns = [int(column) for column in tree.nodes[:, COLUMN]]
        edges = [
            float(bins.edges[column][int(cut)]) if column >= 0 else 0.0
            for column, cut in zip(columns, tree.nodes[:, CUT], strict=True)
        ]
        found.append({
            "column": columns,
            "below": edges,
            "missing_left": [bool(value) for value in tree.nodes[:, MISSING_LEFT]],
            "gain": [float(value) for value in tree.nodes[:, GAIN]],
            "leaves": [[float(value) for value in leaf] for leaf in tree.leaves],
        })  # fmt: skip
    return found


def leaf_of(tree: Mapping[str, Any], values: Float64Vector) -> list[float]:
    """Return the values of the leaf into which a row ``[columns]`` falls; NaN means missing."""
    leaves: list[list[float]] = tree["leaves"]
    node, place = 0, 0
    for level in range(len(leaves).bit_length() - 1):
        node = 2**level - 1 + place
        column = tree["column"][node]
        value = values[max(column, 0)]
        left = column < 0 or (tree["missing_left"][node] if np.isnan(value) else value < tree["below"][node])
        place = 2 * place + (not left)
    return leaves[place]


def importance(trees: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Return each column's share of the gain of all divisions."""
    total = dict.fromkeys(names, 0.0)
    for tree in trees:
        for column, gain in zip(tree["column"], tree["gain"], strict=True):
            if column >= 0:
                total[names[column]] += gain
    whole = sum(total.values())
    return {name: gain / whole if whole > 0 else 0.0 for name, gain in total.items()}
