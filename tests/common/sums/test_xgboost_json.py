"""XGBoost opens trees from sums and predicts the same."""

import json

import numpy as np
import pytest
from tests.common.sums.builders import built, federated
from tests.common.sums.tables import COLUMNS, rows

from salus.common.errors import JobError
from salus.common.sums.xgboost_json import to_xgboost

xgboost = pytest.importorskip("xgboost")


@pytest.mark.parametrize(
    ("kind", "rounds", "settings"),
    [
        ("boosting", 15, "trees = 5\ndepth = 3\nmin_child_weight = 3.0"),  # some nodes divide nothing
        ("random-boosting", 3, "trees = 4"),
        ("forest", 1, "trees = 20"),
    ],
)
def test_a_booster_predicts_the_same_with_missing_values(kind: str, rounds: int, settings: str) -> None:
    sums = built(kind, task=COLUMNS, rounds=rounds, statistics=settings)
    state, _ = federated(sums, [rows(120)])
    model, new = sums.model(state), rows(200, seed=2)
    booster = xgboost.Booster()
    booster.load_model(bytearray(json.dumps(to_xgboost(model)).encode()))
    values = np.array([sums._bins.values(mine[0]) for mine in new])  # type: ignore[attr-defined]
    assert np.isnan(values).any(axis=0).tolist() == [False, True, True]
    theirs = booster.predict(xgboost.DMatrix(values, feature_names=model["columns"]))
    ours = [sums.said(model, mine[0]).probabilities["yes"] for mine in new]  # type: ignore[attr-defined]
    assert np.allclose(theirs, ours, atol=1e-6)
    assert np.ptp(ours) > 0.1


def test_other_models_are_refused() -> None:
    with pytest.raises(JobError, match="trees for two classes"):
        to_xgboost({"kind": "logistic", "classes": ["a", "b"]})
    with pytest.raises(JobError, match="trees for two classes"):
        to_xgboost({"kind": "forest", "classes": ["a", "b", "c"]})
