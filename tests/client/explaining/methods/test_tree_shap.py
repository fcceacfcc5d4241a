"""Tree SHAP against Shapley values by their definition, over all subsets of columns."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from salus.client.explaining.methods.tree_shap import TreeShap
from salus.client.explaining.subject import MISSING, Score, Subject

NAMES = ("a", "b", "c")


def model(kind: str, classes: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    trees = []
    for _ in range(3):
        leaves = rng.random((4, 1 if kind != "forest" else classes))
        if kind == "forest":
            leaves /= leaves.sum(axis=1, keepdims=True)
        trees.append({
            "column": [int(n) for n in rng.permutation(3)],
            "below": [float(np.float32(v)) for v in rng.normal(0, 0.5, 3)],
            "missing_left": [bool(v) for v in rng.integers(0, 2, 3)],
            "gain": [1.0, 1.0, 1.0],
            "leaves": leaves.tolist(),
        })  # fmt: skip
    trees[0]["column"][2] = trees[0]["column"][0]  # one column twice on a way
    return {"kind": kind, "classes": [f"k{n}" for n in range(classes)], "columns": list(NAMES), "trees": trees}


def expected(tree: dict[str, Any], row: Any, chosen: set[int], rows: Any, place: int) -> float:
    """Return the mean of a tree's leaves: by the row where its column is chosen, else by how many rows go each way."""

    def at(level: int, number: int, here: Any) -> float:
        node = 2**level - 1 + number
        if level == 2:
            return float(tree["leaves"][number][place])
        column, edge = tree["column"][node], tree["below"][node]
        goes = np.where(np.isnan(here[:, column]), tree["missing_left"][node], here[:, column] < edge)
        sides = [at(level + 1, 2 * number, here[goes]), at(level + 1, 2 * number + 1, here[~goes])]
        if column in chosen:
            value = row[column]
            left = tree["missing_left"][node] if np.isnan(value) else value < edge
            return sides[0] if left else sides[1]
        return float(np.average(sides, weights=[goes.sum(), (~goes).sum()]))

    return at(0, 0, rows)


def shapley(found: dict[str, Any], row: Any, rows: Any, place: int) -> list[float]:
    boosted = found["kind"] != "forest"
    own = 0 if boosted else place
    share = 1.0 if boosted else 1 / len(found["trees"])

    def value(chosen: set[int]) -> float:
        return share * sum(expected(tree, row, chosen, rows, own) for tree in found["trees"])

    result = []
    for column in range(3):
        rest = [other for other in range(3) if other != column]
        total = 0.0
        for size in range(3):
            weight = math.factorial(size) * math.factorial(2 - size) / 6
            total += weight * sum(value({*s, column}) - value({*s}) for s in itertools.combinations(rest, size))
        result.append(total)
    return result


@pytest.mark.parametrize(
    ("kind", "classes", "place", "sign"),
    [
        ("boosting", 2, 1, 1),
        ("random-boosting", 2, 0, -1),
        ("forest", 2, 1, 1),
        ("forest", 3, 2, 1),
        ("forest", 3, 0, 1),
    ],
)
def test_the_values_are_those_of_the_definition_and_add_up(kind: str, classes: int, place: int, sign: int) -> None:
    own, rng = model(kind, classes), np.random.default_rng(0)
    rows = rng.normal(size=(60, 3)).astype(np.float32)
    rows[5, 1] = np.nan
    row = rows[5]
    given = torch.from_numpy(np.where(np.isnan(rows), MISSING, rows).astype(np.float32))
    subject = Subject(Score(), given[5:6], given[:1], given, (0, 1, 2), NAMES, own, place)
    found = TreeShap(TreeShap.Settings()).with_mean(subject)
    exact = shapley(own, row, rows.astype(np.float64), place)
    assert np.allclose(found[:3], np.array(exact) * sign, atol=1e-4)
    assert np.abs(found[:3]).max() > 0.01
    share = 1.0 if kind != "forest" else 1 / 3
    leaf = 0 if kind != "forest" else place
    said = sign * share * sum(expected(t, row, {0, 1, 2}, rows.astype(np.float64), leaf) for t in own["trees"])
    assert float(found.sum()) == pytest.approx(said, abs=1e-4)


def test_a_model_without_trees_is_named() -> None:
    subject = Subject(Score(), torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), (0, 1, 2), NAMES)
    assert TreeShap(TreeShap.Settings()).unfit(subject) == "the model has no trees"
