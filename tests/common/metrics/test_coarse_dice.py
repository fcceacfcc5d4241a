"""Private Dice: the bound of a row, the mean without noise, and honest errors with it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.estimates import Estimate
from salus.common.metrics.coarse_dice import CELLS, SCALE, CoarseDice

CLASSES = ("anterior", "posterior")


def cases(dice: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[type-arg]
    """Masks of 400 voxels with these values of Dice, ``[items, structures]``, to within one voxel."""
    true = torch.zeros(*dice.shape, 400, dtype=torch.bool)
    true[..., :200] = True
    common = torch.from_numpy(np.round(200 * dice))
    place = torch.arange(400)
    found = (place < common[..., None]) | ((place >= 200) & (place < 400 - common[..., None]))
    return found, true


def test_without_noise_the_mean_is_exact_and_the_error_that_of_sampling() -> None:
    dice = np.round(np.random.default_rng(0).uniform(0.5, 1.0, size=(300, 2)), 2)
    coarse = CoarseDice(CLASSES)
    metrics = coarse.metrics(coarse.rows(*cases(dice)).sum(0).numpy(), 0.0)
    for place, name in enumerate(CLASSES):
        found = metrics[f"dice_{name}"]
        assert isinstance(found, Estimate)
        assert found.value == pytest.approx(dice[:, place].mean())
        exact = dice[:, place].std() / np.sqrt(300)
        assert found.standard_error is not None
        assert exact <= found.standard_error <= 1.5 * exact
    mean = metrics["dice_mean"]
    assert isinstance(mean, Estimate)
    assert mean.value == pytest.approx(dice.mean())


@given(seed=st.integers(0, 10**6))
def test_a_row_has_at_most_the_norm_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(8, 3, 4, 4, generator=generator) < torch.rand(8, 3, 1, 1, generator=generator)
    true = torch.rand(8, 3, 4, 4, generator=generator) < torch.rand(8, 3, 1, 1, generator=generator)
    coarse = CoarseDice(("a", "b", "c"))
    rows = coarse.rows(found, true)
    assert rows.shape == (8, coarse.size) == (8, 3 * CELLS)
    assert bool((rows.norm(dim=1) <= 1 + 1e-12).all())
    assert bool((rows >= 0).all())
    assert torch.allclose((rows * coarse.norm_l2).reshape(8, 3, CELLS).sum(2), torch.ones(8, 3, dtype=torch.float64))


def test_cases_without_the_structure_are_counted_apart() -> None:
    found = torch.zeros(10, 1, 8, dtype=torch.bool)
    found[:4, :, 0] = True
    coarse = CoarseDice(("a",))
    totals = coarse.rows(found, torch.zeros_like(found)).sum(0).numpy()
    assert totals.tolist() == [0.0] * len(SCALE) + [6.0, 4.0]
    metrics = coarse.metrics(totals, 0.01)
    alarm = metrics["false_alarm_a"]
    assert isinstance(alarm, Estimate)
    assert alarm.value == pytest.approx(0.4)
    dice = metrics["dice_a"]
    assert isinstance(dice, Estimate)
    assert dice.value is None


@pytest.mark.parametrize("noise_sd", [2.0, 6.0])
def test_the_errors_cover_the_truth_as_often_as_they_should(noise_sd: float) -> None:
    """400 noisy sums of 200 patients each; two standard errors cover about 95 %, and one alone must not (the test can fail)."""
    rng = np.random.default_rng(1)
    coarse, hits, narrow, tries = CoarseDice(CLASSES), 0, 0, 400
    for _ in range(tries):
        dice = np.clip(rng.normal(0.8, 0.08, size=(200, 2)), 0, 1)
        cells = np.stack([np.interp(dice, SCALE, np.eye(len(SCALE))[point]) for point in range(len(SCALE))], axis=2)
        totals = np.concatenate([cells, np.zeros((200, 2, 2))], axis=2).sum(0).reshape(-1) / coarse.norm_l2
        found = coarse.metrics(totals + rng.normal(0, noise_sd, coarse.size), noise_sd)["dice_mean"]
        assert isinstance(found, Estimate)
        assert found.value is not None
        assert found.standard_error is not None
        hits += abs(found.value - 0.8) <= 2 * found.standard_error
        narrow += abs(found.value - 0.8) <= found.standard_error
    assert hits / tries >= 0.92
    assert narrow / tries <= 0.85


def test_too_much_noise_gives_no_estimate() -> None:
    coarse = CoarseDice(CLASSES)
    found = coarse.metrics(np.zeros(coarse.size), 1.0)
    assert all(isinstance(e, Estimate) and e.value is None for e in found.values())
    assert set(found) == {"dice_mean", "dice_anterior", "dice_posterior"}


def test_the_forecast_has_the_errors_of_a_typical_model() -> None:
    coarse = CoarseDice(CLASSES)
    few, many = (coarse.foretold(patients, 3.0)["dice_mean"] for patients in (100, 1000))
    assert isinstance(few, Estimate)
    assert isinstance(many, Estimate)
    assert few.value == pytest.approx(0.8, abs=0.01)
    assert few.standard_error is not None
    assert many.standard_error is not None
    assert 5 < few.standard_error / many.standard_error < 12
