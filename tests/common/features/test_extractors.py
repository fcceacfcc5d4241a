"""Local features are those of OpenCV, bounded in number and norm, and no picture breaks them."""

from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from salus.common.errors import ConfigError, JobError
from salus.common.features import EXTRACTORS, extractor_of
from salus.common.features.base import (
    SMALLEST,
    DescriptorSettings,
    Extractor,
    Picture,
    described,
    opencv,
    pictures_of,
)
from salus.common.features.dense_sift import DenseSiftSettings, grid
from salus.common.sections import Section, assemble

NAMES = ("akaze", "dense-sift", "orb", "sift")


def extractor(name: str, **changes: Any) -> Extractor:
    class Settings(DescriptorSettings, Section):
        """Settings of local features."""

        plugins: ClassVar = dict(DescriptorSettings.plugins)

    own = EXTRACTORS.get(name)
    model = assemble(Settings, ((name, getattr(own, "Settings", None)),))
    return extractor_of(model(extractor=name, **changes))  # type: ignore[arg-type]


def picture(seed: int = 0, side: int = 96) -> Picture:
    rng = np.random.default_rng(seed)
    blurred = cv2.GaussianBlur(rng.uniform(0, 255, (side, side)), (0, 0), 2.0)
    return np.asarray(np.clip((blurred - blurred.mean()) * 6 + 128, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_descriptors_are_bounded_in_number_and_norm_and_the_strongest_are_kept(name: str) -> None:
    found = extractor(name)
    many, few = found(picture(), 400), found(picture(), 8)
    for places, rows in (many, few):
        assert len(places) == len(rows)
        assert rows.shape[1] == found.size
        assert rows.dtype == np.float32
        assert (places >= 0).all()
        assert (places <= 1).all()
        assert rows.min() >= found.low
        assert np.linalg.norm(rows, axis=1).max() <= 1 + 1e-6
    assert 8 < len(many[0]) <= 400
    assert 4 <= len(few[0]) <= 8
    if name != "dense-sift":
        assert {row.tobytes() for row in few[1]} <= {row.tobytes() for row in many[1]}


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_repetition_do_not_change_a_bit(name: str) -> None:
    found = extractor(name)
    once = found(picture(), 200)
    cv2.setNumThreads(4)
    try:
        again = found(picture().copy(), 200)
    finally:
        cv2.setNumThreads(1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(once, again, strict=True))
    assert found(picture(1), 200)[1].tobytes() != once[1].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_hostile_pictures_give_few_or_no_descriptors_but_no_error(name: str) -> None:
    found = extractor(name)
    rng = np.random.default_rng(0)
    hostile = (np.zeros((SMALLEST, SMALLEST)), np.full((64, SMALLEST), 255), rng.integers(0, 2, (SMALLEST, 300)) * 255)
    for values in hostile:
        places, rows = found(values.astype(np.uint8), 50)
        assert len(places) == len(rows) <= 50
        assert np.isfinite(rows).all()
        assert np.linalg.norm(rows, axis=1).max(initial=0.0) <= 1 + 1e-6


def test_sift_is_opencvs_with_root_normalisation() -> None:
    _, rows = extractor("sift")(picture(), 4096)
    _, raw = cv2.SIFT_create().detectAndCompute(picture(), None)
    direct = np.sqrt(raw / raw.sum(axis=1, keepdims=True))
    assert len(rows) == len(direct) > 20
    order = lambda values: values[np.lexsort(values.T)]  # noqa: E731
    assert np.allclose(order(rows), order(direct.astype(np.float32)), atol=1e-6)


def test_orb_bits_give_the_hamming_distance() -> None:
    _, rows = extractor("orb")(picture(), 30)
    bits = np.rint(rows * 16)
    differing = (bits[0] != bits[1]).sum()
    assert np.isclose(((rows[0] - rows[1]) ** 2).sum() * 256, differing, rtol=1e-5)


def test_dense_sift_describes_the_same_squares_as_opencv_at_the_points_of_a_grid() -> None:
    own = extractor("dense-sift", patch_sides=(24,))
    places, rows = own(picture(), 16)
    points = [cv2.KeyPoint(x, y, 4.0, 0.0) for y, x in grid(96, 96, 16)]
    _, raw = cv2.SIFT_create().compute(picture(), points)
    assert np.allclose(rows, np.sqrt(raw / raw.sum(axis=1, keepdims=True)), atol=1e-6)
    assert np.allclose(places[0], 11.5 / 96)
    assert len(places) == 16


@pytest.mark.parametrize(
    ("height", "width", "most"), [(1, 900, 7), (900, 1, 7), (64, 64, 1), (30, 50, 4096), (17, 60, 100)]
)
def test_a_grid_never_has_more_points_than_allowed(height: int, width: int, most: int) -> None:
    points = np.array(grid(height, width, most))
    assert 1 <= len(points) <= most
    assert (points >= -0.5).all()
    assert (points[:, 0] < height).all()
    assert (points[:, 1] < width).all()


def test_surf_is_refused_with_the_reason_and_the_alternative() -> None:
    with pytest.raises(JobError, match="patented") as problem:
        EXTRACTORS.get("surf", error=JobError)
    assert "akaze" in problem.value.remedy
    assert "surf" not in EXTRACTORS.names()


def test_without_opencv_one_sentence_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ConfigError, match="cv2") as problem:
        extractor("orb")
    assert "pip install 'salus[features]'" in problem.value.remedy
    opencv.cache_clear()


def test_pictures_have_a_bounded_size_whatever_the_image() -> None:
    shapes = {side.shape for side in pictures_of(np.zeros((3, 7, 4000), np.float32), 0, 1, 64)}
    assert shapes == {(SMALLEST, 64)}
    volume = pictures_of(np.random.default_rng(0).random((1, 40, 20, 30), np.float32), 0, 1, 60)
    assert len(volume) == 8
    assert {one.shape for one in volume} == {(40, 60)}
    assert pictures_of(np.full((1, 8, 8), np.nan, np.float32), 0, 1, 64) == []
    assert pictures_of(np.zeros((0,), np.float32), 0, 1, 64) == []


def test_intensities_beyond_the_range_and_padding_are_cut_off() -> None:
    image = np.array([[[-5.0, 0.0], [5.0, 99.0]]], np.float32).repeat(16, axis=1).repeat(16, axis=2)
    padding = np.zeros(image.shape, np.bool_)
    padding[0, 16:, 16:] = True
    plain, masked = (pictures_of(image, 0, 10, 32, mask)[0] for mask in (None, padding))
    assert plain[0, 0] == 0
    assert plain[-1, -1] == 255
    assert plain[-1, 0] == 128
    assert masked[-1, -1] == 0


def test_all_slices_together_have_at_most_the_allowed_number() -> None:
    found = described(extractor("dense-sift"), [picture(seed) for seed in range(8)], 100)
    assert 0 < len(found[0]) <= 100
    assert len(described(extractor("sift"), [], 100)[0]) == 0


def test_the_sizes_of_patches_are_bounded() -> None:
    with pytest.raises(ValueError, match="patch_sides"):
        DenseSiftSettings(patch_sides=(4,))
