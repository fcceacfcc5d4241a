import json

import pytest

from salus.common.estimates import NOTHING, Estimate, from_plain, metric_text, to_plain


def estimate(value: float, error: float) -> Estimate:
    return Estimate(value=value, standard_error=error, noise_error=error / 2)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (0.9534, "0.953"),
        (estimate(0.7149, 0.2), "0.71 +- 0.20"),
        (estimate(0.9534, 0.004), "0.953 +- 0.004"),
        (estimate(0.71, 0.26), "too noisy to say"),
        (estimate(1.02, 0.03), "1.02 +- 0.03 (above 1: noise)"),
        (estimate(-0.01, 0.03), "-0.01 +- 0.03 (below 0: noise)"),
        (NOTHING, "too noisy to say"),
    ],
)
def test_a_metric_is_shown_with_its_standard_error_or_not_at_all(metric: float | Estimate, text: str) -> None:
    assert metric_text(metric) == text


def test_metrics_survive_json_and_what_a_newer_version_adds() -> None:
    metrics = {"auc": estimate(0.9, 0.03), "loss": 0.5, "accuracy": NOTHING}
    plain = json.loads(json.dumps(to_plain(metrics)))
    assert plain["auc"] == {"value": 0.9, "standard_error": 0.03, "noise_error": 0.015}
    assert from_plain(plain) == metrics
    plain["auc"]["method"] = "binormal"
    assert from_plain({**plain, "note": "text"}) == metrics
    assert from_plain(None) == {}
