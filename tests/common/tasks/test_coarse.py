"""The noisy evaluation measured from outside: what one patient can move, and how often its intervals hold the truth."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.estimates import Estimate
from salus.common.tasks.coarse import CELLS, Coarse

ALPHA_COVER = 0.88  # 95 % intervals by linearisation, 150 draws: less than this has chance below 1e-3


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def binary(
    rng: np.random.Generator, *, items: int = 600, shift: float = 3.2, wide: float = 1.8
) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(items) < 0.7).astype(np.int64)
    return rng.normal(shift * (labels - 0.5), wide), labels


def rows_of(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = torch.tensor(np.stack([np.zeros_like(scores), scores], axis=1))
    return Coarse(("a", "b")).rows(logits, torch.tensor(labels)).numpy()


def z_scores(noise_sd: float, draws: int, claimed_sd: float | None = None, kind: str = "auc") -> np.ndarray:
    """Distances of the estimate from the truth on the same patients, in noise errors."""
    rng = np.random.default_rng(5)
    scores, labels = binary(rng)
    total = rows_of(scores, labels).sum(axis=0)
    truth = auc(scores, labels) if kind == "auc" else float(((scores > 0) == (labels == 1)).mean())
    found = []
    for _ in range(draws):
        noisy = total + rng.normal(0, noise_sd, len(total))
        metric = Coarse(("a", "b")).metrics(noisy, claimed_sd or noise_sd)[kind]
        assert isinstance(metric, Estimate)
        assert metric.value is not None
        assert metric.noise_error is not None
        found.append((metric.value - truth) / metric.noise_error)
    return np.array(found)


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 10_000))
def test_one_patient_moves_the_sum_by_at_most_one(classes: int, images: int, seed: int) -> None:
    """Brute force over random networks' outputs: what the charge is computed for is what is sent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) * 10 ** float(seed % 5 - 2)
    labels = torch.randint(0, classes, (images,), generator=generator)
    coarse = Coarse(tuple(f"c{number}" for number in range(classes)))
    rows = coarse.rows(logits, labels)
    assert rows.shape == (images, coarse.size)
    assert (rows.norm(dim=1) <= 1 + 1e-12).all()
    assert float(rows.mean(dim=0).norm()) <= 1 + 1e-12
    right = logits.argmax(dim=1) == labels
    if right.any():
        assert float(rows[right].norm(dim=1).max()) == pytest.approx(1.0)  # the bound is reached: no noise is wasted


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_outputs_that_are_no_numbers_keep_the_bound(value: float) -> None:
    rows = Coarse(("a", "b", "c")).rows(torch.full((1, 3), value, dtype=torch.float64), torch.tensor([1]))
    assert float(rows.norm()) <= 1


@pytest.mark.parametrize("kind", ["auc", "accuracy"])
def test_intervals_hold_the_truth_on_the_same_patients(kind: str) -> None:
    z = np.abs(z_scores(7.0, 100, kind=kind))
    assert (z < 1.96).mean() > ALPHA_COVER
    assert (z < 0.3).mean() < 0.5  # nor are they far too wide


def test_an_error_computed_from_a_third_of_the_noise_is_caught() -> None:
    """The must-reject case: the sum carries the noise of nine sites, the error is computed for one."""
    assert (np.abs(z_scores(9.0, 150, claimed_sd=3.0)) < 1.96).mean() < ALPHA_COVER


def coverage_of_new_patients(noise_sd: float, error: Callable[[Estimate], float | None]) -> float:
    rng = np.random.default_rng(6)
    truth = auc(*binary(rng, items=6000))
    inside = []
    for _ in range(150):
        total = rows_of(*binary(rng)).sum(axis=0)
        metric = Coarse(("a", "b")).metrics(total + rng.normal(0, noise_sd, len(total)), noise_sd)["auc"]
        assert isinstance(metric, Estimate)
        inside.append(abs((metric.value or 0) - truth) < 1.96 * (error(metric) or 0))
    return float(np.mean(inside))


def test_the_standard_error_covers_the_choice_of_patients_too() -> None:
    assert coverage_of_new_patients(2.0, lambda metric: metric.standard_error) > ALPHA_COVER
    assert coverage_of_new_patients(2.0, lambda metric: metric.noise_error) < ALPHA_COVER  # noise alone is not enough


@pytest.mark.parametrize("classes", [3, 4])
def test_more_than_two_classes(classes: int) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, classes, 900)
    logits = rng.normal(0, 1.2, (900, classes))
    logits[np.arange(900), labels] += 2.5
    log_p = torch.log_softmax(torch.tensor(logits), dim=1).numpy()
    odds = log_p - np.log(-np.expm1(log_p))
    truths = {
        "auc": float(np.mean([auc(odds[:, c], (labels == c).astype(int)) for c in range(classes)])),
        "accuracy": float((logits.argmax(1) == labels).mean()),
    }
    coarse = Coarse(tuple("abcd"[:classes]))
    total = coarse.rows(torch.tensor(logits), torch.tensor(labels)).numpy().sum(axis=0)
    noise_sd = 4.0
    z: dict[str, list[float]] = {name: [] for name in truths}
    for _ in range(40):
        metrics = coarse.metrics(total + rng.normal(0, noise_sd, len(total)), noise_sd)
        for name, metric in metrics.items():
            assert isinstance(metric, Estimate)
            assert metric.value is not None
            assert metric.standard_error is not None
            z[name].append((metric.value - truths[name]) / metric.standard_error)
    assert all((np.abs(values) < 1.96).mean() > 0.85 for values in z.values())


def test_noise_that_drowns_the_patients_says_nothing() -> None:
    rng = np.random.default_rng(8)
    coarse = Coarse(("a", "b"))
    for _ in range(20):
        metrics = coarse.metrics(rng.normal(0, 30.0, coarse.size), 30.0)
        assert all(isinstance(metric, Estimate) and metric.too_noisy for metric in metrics.values())
    assert coarse.figures(np.zeros(coarse.size), 30.0).curves == ()


def test_nothing_is_clipped() -> None:
    coarse = Coarse(("a", "b"))
    totals = np.zeros((2, CELLS))
    totals[0, 0], totals[1, -1], totals[1, 0] = 100.0, 100.0, -9.0
    accuracy = coarse.metrics(totals.reshape(-1), 2.0)["accuracy"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value is not None
    assert accuracy.value > 1


def test_what_was_foretold_is_what_comes() -> None:
    coarse = Coarse(("a", "b"))
    told = coarse.foretold(600, 7.0)["auc"]
    assert isinstance(told, Estimate)
    assert told.value == pytest.approx(0.9, abs=0.005)
    rng = np.random.default_rng(9)
    labels = (rng.random(600) < 0.75).astype(np.int64)
    total = rows_of(rng.normal(1.63 * (2 * labels - 1), 1.8), labels).sum(axis=0)
    came = coarse.metrics(total + rng.normal(0, 7.0, len(total)), 7.0)["auc"]
    assert isinstance(came, Estimate)
    assert came.standard_error == pytest.approx(told.standard_error, rel=0.4)
