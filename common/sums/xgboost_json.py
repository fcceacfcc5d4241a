"""Trees from sums as a model file of XGBoost (its JSON format of version 3), for predictions and plots with its tools.

Its Shapley values (``pred_contribs``) of this file are wrong: they need the number of rows in each node, which is not known here,
and take the node after a left child for the right one, which holds for no tree deeper than one level. `client.explaining` changes
both first.

A booster that loads the file predicts the probability of the second class. It takes the model's columns in their order, NaN for
missing; a value that is none of a categorical column's values must be NaN, too, because a booster does not know the values.
"""

from collections.abc import Mapping
from typing import Any

from salus.common.errors import JobError

ROOT = 2**31 - 1  # as the parent of the first node
BOOSTED = ("boosting", "random-boosting")


def to_xgboost(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the file, to be written as JSON.

    Packages are compared with it: a version that writes something else must still know this form.

    Args:
        model: of kind `boosting` or `random-boosting`, or of kind `forest` with two classes.

    Raises:
        JobError: another kind of model, or other than two classes.
    """
    kind, classes = model.get("kind"), model.get("classes", ())
    if kind not in (*BOOSTED, "forest") or len(classes) != 2:
        raise JobError(
            "Expected trees for two classes.", remedy="Use a model of kind boosting, random-boosting or forest."
        )
    boosted, count = kind in BOOSTED, len(model["columns"])
    # The leaves of a forest are probabilities, of which the mean is taken.
    share = 1.0 if boosted else 1.0 / len(model["trees"])
    trees = [_tree(number, tree, count, share) for number, tree in enumerate(model["trees"])]
    numbers = list(range(len(trees) + 1))
    return {
        "version": [3, 2, 0],
        "learner": {
            "attributes": {},
            "feature_names": list(model["columns"]),
            "feature_types": ["float"] * count,
            "gradient_booster": {
                "name": "gbtree",
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
                    "iteration_indptr": numbers,
                    "tree_info": [0] * len(trees),
                    "trees": trees,
                },
            },
            "learner_model_param": {
                "base_score": "[5E-1]" if boosted else "[0E0]",
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": str(count),
                "num_target": "1",
            },
            "objective": {
                "name": "binary:logistic" if boosted else "reg:squarederror",
                "reg_loss_param": {"scale_pos_weight": "1"},
            },
        },
    }


def _tree(number: int, tree: Mapping[str, Any], columns: int, share: float) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    depth = len(tree["leaves"]).bit_length() - 1

    def add(level: int, place: int, parent: int) -> int:
        inner = 2**level - 1 + place
        while level < depth and tree["column"][inner] < 0:  # divides nothing: all go left
            level, place = level + 1, 2 * place
            inner = 2**level - 1 + place
        own, node = len(nodes), {"parent": parent, "left": -1, "right": -1, "column": 0, "missing_left": 0, "gain": 0.0}
        nodes.append(node)
        if level == depth:
            node["value"] = share * float(tree["leaves"][place][-1])
            return own
        node |= {"column": tree["column"][inner], "value": tree["below"][inner], "gain": tree["gain"][inner]}
        node["missing_left"] = int(tree["missing_left"][inner])
        node["left"] = add(level + 1, 2 * place, own)
        node["right"] = add(level + 1, 2 * place + 1, own)
        return own

    add(0, 0, ROOT)
    size = len(nodes)
    return {
        "id": number,
        "base_weights": [node["value"] if node["left"] < 0 else 0.0 for node in nodes],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [node["missing_left"] for node in nodes],
        "left_children": [node["left"] for node in nodes],
        "right_children": [node["right"] for node in nodes],
        "loss_changes": [node["gain"] for node in nodes],
        "parents": [node["parent"] for node in nodes],
        "split_conditions": [node["value"] for node in nodes],
        "split_indices": [node["column"] for node in nodes],
        "split_type": [0] * size,
        "sum_hessian": [1.0] * size,  # not known for every node; predictions do not use it
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(columns),
            "num_nodes": str(size),
            "size_leaf_vector": "1",
        },
    }
