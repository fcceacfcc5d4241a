"""Exact Shapley values of trees (Lundberg et al. 2020, arXiv 1905.04610), by XGBoost, for models of trees from sums.

What an absent column leaves open is weighed by how many of the site's own rows go each way. The values add up to the trees'
score less the mean over these rows.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from salus.client.explaining.subject import MISSING, Subject
from salus.common.extras import required
from salus.common.strict import Strict
from salus.common.sums.xgboost_json import BOOSTED, to_xgboost

LEAST_COVER = 1e-3  # rows in a node that none of the site's goes to; exact covers would divide by zero


class TreeShap:
    """The Shapley value of each column."""

    title = "Tree SHAP"

    class Settings(Strict):
        """`tree-shap` has no settings."""

    def __init__(self, settings: Settings) -> None:
        self._xgboost = required("xgboost", extra="explain", what='The method "tree-shap"')

    def unfit(self, subject: Subject) -> str:
        """Return that the model has no trees."""
        return "" if subject.trees else "the model has no trees"

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the values of the columns."""
        return torch.from_numpy(self.with_mean(subject)[:-1])

    def with_mean(self, subject: Subject) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the values of the columns, and the mean score over the site's rows."""
        booster = self._xgboost.Booster()
        covered = with_covers(of_class(subject.trees, subject.place), known(subject.others.numpy()))
        booster.load_model(bytearray(json.dumps(covered).encode()))
        row = self._xgboost.DMatrix(known(subject.inputs.numpy()), feature_names=list(subject.columns))
        found = np.asarray(booster.predict(row, pred_contribs=True)[0], np.float32)
        sign = 1.0 if subject.place == 1 or subject.trees["kind"] not in BOOSTED else -1.0
        return found * np.float32(sign)


def of_class(model: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return the model as one of two classes, the second being the class at `place`; boosted trees have two already."""
    if model["kind"] in BOOSTED:
        return dict(model)
    trees = [
        {**tree, "leaves": [[1 - float(leaf[place]), float(leaf[place])] for leaf in tree["leaves"]]}
        for tree in model["trees"]
    ]
    return {**model, "classes": ["others", "this"], "trees": trees}


def known(rows: "np.ndarray[Any, np.dtype[Any]]") -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return rows in single precision with NaN for what is missing; see `subject.MISSING`."""
    values = np.asarray(rows, np.float32)
    return np.where(values <= np.float32(MISSING / 2), np.float32(np.nan), values)


def with_covers(model: Mapping[str, Any], rows: "np.ndarray[Any, np.dtype[Any]]") -> dict[str, Any]:
    """Return the content of XGBoost's file with the number of rows that reach each node.

    Args:
        rows: ``[rows, columns]``, NaN where missing.
    """
    document = to_xgboost(model)
    content = document["learner"]["gradient_booster"]["model"]
    content["trees"] = [beside_each_other(tree) for tree in content["trees"]]
    for tree in content["trees"]:
        tree["sum_hessian"] = _covers(tree, rows)
    return document


OF_NODES = (
    "base_weights", "default_left", "left_children", "loss_changes", "parents", "right_children", "split_conditions",
    "split_indices", "split_type", "sum_hessian",
)  # fmt: skip


def beside_each_other(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree whose right children follow their left ones.

    XGBoost 3.2 predicts with any numbering, but its Shapley values take the node after the left child for the right one.
    """
    left, right = tree["left_children"], tree["right_children"]
    order = [0]
    for node in order:  # grows as it goes: level by level
        if left[node] >= 0:
            order += [left[node], right[node]]
    place = {node: number for number, node in enumerate(order)}
    found = {**tree, **{name: [tree[name][node] for node in order] for name in OF_NODES}}
    for name in ("left_children", "right_children", "parents"):
        found[name] = [place.get(node, node) for node in found[name]]
    return found


def _covers(tree: Mapping[str, Sequence[Any]], rows: "np.ndarray[Any, np.dtype[Any]]") -> list[float]:
    """Return the rows that reach each node; an inner node has the sum of its children, as the method needs."""
    left, covers = tree["left_children"], [0.0] * len(tree["left_children"])
    here = {0: np.arange(len(rows))}
    for node in range(len(left)):  # children come after their parents
        mine = here.pop(node)
        if left[node] < 0:
            covers[node] = max(float(len(mine)), LEAST_COVER)
            continue
        values = rows[mine, tree["split_indices"][node]]
        goes = np.where(np.isnan(values), bool(tree["default_left"][node]), values < tree["split_conditions"][node])
        here[left[node]], here[tree["right_children"][node]] = mine[goes], mine[~goes]
    for node in reversed(range(len(left))):
        if left[node] >= 0:
            covers[node] = covers[left[node]] + covers[tree["right_children"][node]]
    return covers
