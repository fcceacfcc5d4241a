"""LiRA on plain numbers: what members fit better is found, and nothing is found in noise."""

import numpy as np
import pytest

from salus.privacy.audit.guessing import area
from salus.privacy.audit.membership import confidence, offline_scores


def test_the_confidence_is_the_logit_of_the_probability() -> None:
    probability = np.array([0.01, 0.3, 0.5, 0.9])
    assert confidence(-np.log(probability)) == pytest.approx(np.log(probability / (1 - probability)))
    assert np.isfinite(confidence(np.array([0.0, np.inf, np.nan]))).all()
    assert confidence(np.array([-2.0, 1.0])) == pytest.approx([2.0, -1.0])  # a loss that may be negative


def fits(gain: float, runs: int = 8, patients: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    took_part = rng.random((runs, patients)) < 0.5
    hardness = rng.normal(0, 5, patients)  # differs far more between patients than membership changes it
    return hardness + gain * took_part + rng.normal(0, 1, took_part.shape), took_part


def test_each_patient_is_compared_with_shadow_models_that_never_saw_it() -> None:
    values, took_part = fits(2.0)
    assert area(offline_scores(values, took_part), took_part) > 0.85
    assert area(values, took_part) < 0.65  # one threshold for all patients finds much less
    values, took_part = fits(0.0)
    assert abs(area(offline_scores(values, took_part), took_part) - 0.5) < 0.04  # the standard error is 0.012


def test_the_target_s_own_flips_are_not_used() -> None:
    values, took_part = fits(2.0)
    scores = offline_scores(values, took_part)
    changed = took_part.copy()
    changed[0] = ~changed[0]
    assert offline_scores(values, changed)[0] == pytest.approx(scores[0])


def test_a_patient_whom_all_shadow_models_saw_gets_a_finite_score() -> None:
    values, took_part = fits(1.0, runs=3, patients=5)
    took_part[:, 2] = True
    assert np.isfinite(offline_scores(values, took_part)).all()
