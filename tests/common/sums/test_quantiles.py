import numpy as np
import pytest
from tests.common.sums.builders import built, federated, hospitals

from salus.common.sums.base import Measured, Totals

PROBABILITIES = (0.01, 0.25, 0.5, 0.75, 0.99)


def pooled_quantile(images: list[np.ndarray], probability: float) -> float:
    """Smallest value at which the mean of the images' distribution functions reaches the probability."""
    values = np.concatenate([image.ravel() for image in images])
    weights = np.concatenate([np.full(image.size, 1 / image.size) for image in images]) / len(images)
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), probability)])


@pytest.mark.parametrize("least", [1, 5])
@pytest.mark.parametrize("vendors", [(), ("GE", "SIEMENS")])
def test_quantiles_of_divided_data_are_those_of_all(vendors: tuple[str, ...], least: int) -> None:
    parts = hospitals(sizes=(30, 40, 50))
    listed = f"vendors = {list(vendors)}\nbins = 1000".replace("'", '"')
    sums = built("quantiles", statistics=listed)
    state, totals = federated(sums, parts, least)
    result = sums.result(state, totals)
    found = result["groups"]
    assert set(found) == set(vendors or ("ALL",))
    assert result["known_to"] == 1.0
    for group in found:
        images = [
            image.intensities
            for part in parts
            for patient in part
            for image in patient
            if group in ("ALL", image.vendor)
        ]
        for probability in PROBABILITIES:
            pooled = pooled_quantile(images, probability)
            tail = probability in (0.01, 0.99)  # few patients there, so a site joins more bins
            allowed = 1.0 if least == 1 else 60.0 if tail else 5.0
            assert abs(found[group]["quantiles"][f"{probability:g}"] - pooled) <= allowed
        spread = found[group]["quantiles"]["0.75"] - found[group]["quantiles"]["0.25"]
        assert found[group]["centre"] == found[group]["quantiles"]["0.5"]
        assert found[group]["scale"] == pytest.approx(spread / 1.349, rel=1e-3)


def test_values_outside_the_range_leave_the_quantile_in_its_last_bin() -> None:
    sums = built("quantiles")
    far = [[Measured(0, image.intensities + 5000) for image in patient] for part in hospitals() for patient in part]
    state, totals = federated(sums, [far])
    result = sums.result(state, totals)
    assert all(1000 - result["known_to"] <= value <= 1000 for value in result["groups"]["ALL"]["quantiles"].values())
    assert "centre" in result["groups"]["ALL"]


def test_noise_that_is_not_cut_leaves_the_tails_where_they_are() -> None:
    """Cells cut at zero before they are added gave quantiles far outside the data."""
    sums = built("quantiles")
    rng = np.random.default_rng(0)
    mass = np.zeros(64)
    mass[20:40] = 100.0
    for _ in range(20):
        totals = Totals(2000.0, 2000.0, 2000.0, mass + rng.normal(0, 1.5, 64), 1.5)
        low, *_, high = sums.fold(1, [], totals)
        assert 200 < low < 380
        assert 560 < high < 760
        assert sorted(sums.fold(1, [], totals)) == sums.fold(1, [], totals)
    assert sums.result(sums.fold(1, [], totals), totals)["groups"]["ALL"]["scale"] > 50
    flat = Totals(1.0, 1.0, 1.0, np.zeros(64))
    assert "groups" not in sums.result(sums.fold(1, [], flat), flat)
