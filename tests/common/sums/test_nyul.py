import numpy as np
from tests.common.sums.builders import built, federated, hospitals

from salus.common.sums.base import Measured, cells_of
from salus.common.sums.nyul import PERCENTILES, percentiles_of, to_standard_scale


def test_landmarks_of_divided_data_are_those_of_all() -> None:
    parts = hospitals()
    images = [image.intensities for part in parts for patient in part for image in patient]
    mapped = []
    for image in images:
        own = np.percentile(image.astype(float), PERCENTILES)
        mapped.append(np.interp(own, [own[0], own[-1]], [0, 1]))
    sums = built("nyul")
    state, totals = federated(sums, parts, least=5)
    assert np.abs(np.array(state) - np.mean(mapped, axis=0)).max() < 1e-6
    assert sums.result(state, totals)["landmarks"] == state


def test_the_standard_scale_undoes_any_rising_change_of_intensities() -> None:
    rng = np.random.default_rng(3)
    image = rng.gamma(2, 50, size=(1, 64, 64)).astype(np.float32)
    landmarks = np.linspace(0, 1, len(PERCENTILES))
    plain = to_standard_scale(image, landmarks)
    assert np.allclose(np.percentile(plain, PERCENTILES), landmarks / 2 + 0.25, atol=0.01)
    assert np.allclose(to_standard_scale(3 * image + 700, landmarks), plain, atol=1e-3)
    assert np.abs(to_standard_scale(np.sqrt(image) * 90, landmarks) - plain).mean() < 0.02
    assert np.abs(np.sqrt(image) / np.sqrt(image).max() - image / image.max()).mean() > 0.1  # a change that was there


def test_what_is_brighter_than_the_last_percentile_stays_brighter() -> None:
    image = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(1, 100, 100).copy()
    image[0, 0, :3] = (120, 140, 1000)
    standard = to_standard_scale(image, np.linspace(0, 1, len(PERCENTILES)))
    assert standard[0, 0, 0] > standard[image <= 100].max()
    assert standard[0, 0, 0] < standard[0, 0, 1] < standard[0, 0, 2] <= 1
    assert standard.min() >= 0


def test_flat_and_damaged_images_say_nothing_and_become_zero() -> None:
    sums = built("nyul")
    for values in (np.full((1, 4, 4), 7.0), np.full((1, 4, 4), np.nan), np.zeros((1, 0, 0))):
        assert percentiles_of(values.astype(np.float32)) is None
        assert not to_standard_scale(values.astype(np.float32), np.linspace(0, 1, 11)).any()
    two_values = np.repeat([0.0, 1.0], 50).reshape(1, 10, 10).astype(np.float32)
    assert np.isfinite(to_standard_scale(two_values, np.linspace(0, 1, 11))).all()
    assert cells_of(sums, 1) == 11


def test_percentiles_that_are_zero_are_no_small_cell() -> None:
    black = np.zeros((1, 10, 10), np.float32)
    black[0, :, 5:] = np.linspace(1, 9, 50).reshape(10, 5)
    plain = np.linspace(1, 9, 100, dtype=np.float32).reshape(1, 10, 10)
    site = [*([[Measured(0, black)]] * 16), *([[Measured(0, plain)]] * 4)]
    sums = built("nyul")
    assert federated(sums, [site], least=5)[0] == federated(sums, [site], least=1)[0]
    assert federated(sums, [site], least=5)[0][1] > 0
