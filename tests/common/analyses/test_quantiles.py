import numpy as np
import pytest
from tests.common.analyses.builders import built, federated, hospitals

PROBABILITIES = (0.01, 0.25, 0.5, 0.75, 0.99)


def pooled_quantile(images: list[np.ndarray], probability: float) -> float:
    """Smallest value at which the mean of the images' distribution functions reaches the probability."""
    values = np.concatenate([image.ravel() for image in images])
    weights = np.concatenate([np.full(image.size, 1 / image.size) for image in images]) / len(images)
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), probability)])


@pytest.mark.parametrize("vendors", [(), ("GE", "SIEMENS")])
def test_quantiles_of_divided_data_are_those_of_all(vendors: tuple[str, ...]) -> None:
    parts = hospitals()
    listed = f"vendors = {list(vendors)}".replace("'", '"')
    analysis = built("quantiles", rounds=3, statistics=listed)
    state, totals = federated(analysis, parts)
    found = analysis.result(state, totals)["groups"]
    assert set(found) == set(vendors or ("ALL",))
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
            assert abs(found[group]["quantiles"][f"{probability:g}"] - pooled) < 1000 * 1e-4 / 2
        spread = found[group]["quantiles"]["0.75"] - found[group]["quantiles"]["0.25"]
        assert found[group]["centre"] == found[group]["quantiles"]["0.5"]
        assert found[group]["scale"] == pytest.approx(spread / 1.349, rel=1e-3)


def test_values_outside_the_range_leave_the_quantile_at_its_end() -> None:
    analysis = built("quantiles", rounds=3)
    parts = hospitals()
    far = [[[type(image)(0, image.intensities + 5000)] for image in patient] for part in parts for patient in part]
    state, totals = federated(analysis, [[p for patient in far for p in patient]])
    quantiles = analysis.result(state, totals)["groups"]["ALL"]["quantiles"]
    assert all(value == pytest.approx(1000, abs=0.01) for value in quantiles.values())
