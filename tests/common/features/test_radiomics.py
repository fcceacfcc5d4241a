"""Radiomics features are those of scikit-image and of the definitions, and hostile images give finite numbers."""

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from salus.common.features.radiomics import ANGLES, radiomics_of, ranges_of

BINS, DISTANCES = 16, (1, 3)
NAMES = list(ranges_of(BINS, DISTANCES))


def image(seed: int = 0, shape: tuple[int, ...] = (1, 20, 24)) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).uniform(-20, 120, shape).astype(np.float32)


def found(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], **more: object) -> dict[str, float]:
    row = radiomics_of(values, 0, 100, BINS, DISTANCES, **more)  # type: ignore[arg-type]
    assert row is not None
    assert len(row) == len(NAMES)
    assert np.isfinite(row).all()
    return dict(zip(NAMES, row.tolist(), strict=True))


def test_texture_is_that_of_scikit_image() -> None:
    values = np.clip(image()[0].astype(np.float64) / 100, 0, 1)
    levels = np.minimum((values * BINS).astype(int), BINS - 1).astype(np.uint8)
    mine = found(image())
    for place, distance in enumerate(DISTANCES):
        matrix = graycomatrix(levels, DISTANCES, ANGLES, levels=BINS, symmetric=True, normed=True)
        direct = {
            name: graycoprops(matrix, name)[place].mean() for name in ("contrast", "homogeneity", "ASM", "correlation")
        }
        assert np.isclose(mine[f"glcm contrast {distance}"] * (BINS - 1) ** 2, direct["contrast"])
        assert np.isclose(mine[f"glcm inverse difference moment {distance}"], direct["homogeneity"])
        assert np.isclose(mine[f"glcm angular second moment {distance}"], direct["ASM"])
        assert np.isclose(mine[f"glcm correlation {distance}"], direct["correlation"])


def test_intensity_statistics_are_those_of_the_definitions() -> None:
    values, mine = np.clip(image().astype(np.float64) / 100, 0, 1).ravel(), found(image())
    assert np.isclose(mine["mean"], values.mean())
    assert np.isclose(mine["variance"], values.var())
    assert np.isclose(mine["skewness"], ((values - values.mean()) ** 3).mean() / values.std() ** 3)
    assert np.isclose(mine["excess kurtosis"], ((values - values.mean()) ** 4).mean() / values.var() ** 2 - 3)
    assert np.isclose(mine["10th percentile"], np.percentile(values, 10))
    counts = np.bincount(np.minimum((values * BINS).astype(int), BINS - 1), minlength=BINS) / values.size
    assert np.isclose(mine["discretised uniformity"], (counts**2).sum())


def test_a_volume_merges_its_slices() -> None:
    plane = image(3)
    same = found(np.stack([plane] * 3, axis=1).reshape(1, 3, 20, 24))
    flat = found(plane)
    for name in NAMES:
        if name.startswith("glcm"):
            assert np.isclose(same[name], flat[name]), name


def test_padding_counts_in_nothing() -> None:
    values = image(4, (1, 20, 12))
    padding = np.zeros((1, 20, 24), np.bool_)
    padding[..., 12:] = True
    wide = np.concatenate([values, np.full_like(values, 100)], axis=2)
    alone, masked = found(values), found(wide, padding=padding)
    for name in NAMES:
        if not name.startswith("gradient"):
            assert np.isclose(alone[name], masked[name]), name
    assert radiomics_of(values, 0, 100, BINS, DISTANCES, np.ones(values.shape, np.bool_)) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (2, 3, 3), (1, 1, 2, 2)])
@pytest.mark.parametrize("value", [0.0, 50.0, 1e9, -1e9])
def test_constant_and_tiny_images_give_finite_numbers(shape: tuple[int, ...], value: float) -> None:
    assert found(np.full(shape, value, np.float32))["variance"] == 0


def test_images_that_are_not_finite_give_nothing() -> None:
    assert radiomics_of(np.full((1, 4, 4), np.nan, np.float32), 0, 1, BINS, DISTANCES) is None
    assert radiomics_of(np.zeros((0,), np.float32), 0, 1, BINS, DISTANCES) is None
