"""Filters, edges, contrast, bias field, morphology and compression, held to the libraries and to what they are for."""

import sys

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from tests.common.transforms.worlds import make, spec_of, world

from salus.common.errors import ConfigError, JobError, UnreadableImage
from salus.common.examples import PADDING, Example
from salus.common.transforms.compression import RATIO, quantised
from salus.common.transforms.morphology import ball
from salus.common.transforms.smoothing import noise_sd

RANDOM = np.random.default_rng(7)
CT = np.rint(RANDOM.normal(0, 20, (1, 6, 40, 48)) + 400 * (np.indices((6, 40, 48))[2] > 24)).astype(np.float32)
PICTURE = CT[:, 0]


def image(values: np.ndarray, spacing_mm: tuple[float, ...] = (), padding: np.ndarray | None = None) -> Example:
    fields, spatial = {"image": values.astype(np.float32)}, {"image"}
    if padding is not None:
        fields, spatial = {**fields, PADDING: padding.astype(np.uint8)[None]}, {"image", PADDING}
    affine = np.diag([*spacing_mm, 1.0]) if spacing_mm else None
    return Example(fields, frozenset(spatial), affine)


def changed(kind: str, values: np.ndarray, **own) -> np.ndarray:
    return make(kind, **own)(image(values), None)["image"]


def test_median_and_gaussian_are_those_of_scipy_and_continue_the_border():
    assert np.array_equal(changed("median", CT, radius=2)[0], ndimage.median_filter(CT[0], 5, mode="nearest"))
    smooth = ndimage.gaussian_filter(CT[0].astype(float), 1.5, mode="nearest")
    assert np.allclose(changed("gaussian", CT, sigma=1.5)[0], smooth, atol=1e-3)
    assert np.allclose(changed("gaussian", np.full((1, 5, 5), -1000.0)), -1000)


def test_a_gaussian_in_millimetres_follows_the_spacing_and_needs_one():
    found = make("gaussian", sigma=3.0, unit="mm")(image(CT, (3.0, 1.5, 1.0)), None)["image"]
    assert np.allclose(found[0], ndimage.gaussian_filter(CT[0].astype(float), (1, 2, 3), mode="nearest"), atol=1e-3)
    with pytest.raises(UnreadableImage, match="no-spacing"):
        changed("gaussian", CT, unit="mm")


@pytest.mark.parametrize("kind", ["bilateral", "non-local-means", "total-variation", "median"])
def test_noise_becomes_less_and_the_edge_stays(kind):
    found = changed(kind, PICTURE)[0]
    assert found[:, 4:20].std() < 0.7 * PICTURE[0, :, 4:20].std()
    assert found[:, 28:].mean() - found[:, :20].mean() == pytest.approx(400, abs=10)


def test_the_noise_of_an_image_is_estimated():
    flat = RANDOM.normal(100, 8, (64, 64))
    assert noise_sd(flat) == pytest.approx(8, rel=0.1)
    assert noise_sd(np.zeros((2, 2))) == 0


def test_savitzky_golay_keeps_a_parabola_and_works_along_the_axis_named():
    y, x = np.indices((1, 12, 15))[1:]
    parabola = 0.5 * x**2 - y
    assert np.allclose(changed("savitzky-golay", parabola, axis="x")[..., 3:-3], parabola[..., 3:-3], atol=1e-4)
    assert np.allclose(changed("savitzky-golay", parabola * 1.0, axis="z"), parabola), "a picture has no z"
    with pytest.raises(ValidationError, match="odd"):
        make("savitzky-golay", window=4)


def test_sobel_of_a_ramp_is_its_slope_and_canny_finds_the_one_edge():
    ramp = 3.0 * np.indices((1, 5, 9, 9))[3]
    assert np.allclose(changed("sobel", ramp)[..., 1:-1], 3.0)
    edges = changed("canny", PICTURE, low=0.95, high=0.97)[0]
    assert set(np.unique(edges)) <= {0.0, 1.0}
    assert edges[5:-5, 22:28].any(axis=1).mean() > 0.9
    assert not changed("canny", np.ones((1, 9, 9))).any()


def test_a_laplacian_of_a_parabola_is_constant():
    parabola = np.indices((1, 9, 9))[2] ** 2 / 2.0
    assert np.allclose(changed("laplacian", parabola, sigma=0.0)[..., 1:-1], 1)
    assert np.allclose(changed("laplacian", parabola, sigma=1.0)[..., 4:-4], 1, atol=0.1)


def test_contrast_is_spread_over_the_whole_range():
    skewed = RANDOM.exponential(1.0, (1, 32, 32))
    even = changed("equalize", skewed)
    assert np.quantile(even, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)
    tiles = changed("clahe", skewed, tiles=2)
    assert 0 <= tiles.min() < tiles.max() <= 1
    assert changed("clahe", CT[..., :3], tiles=2).shape == CT[..., :3].shape, "a narrow volume is not a colour image"
    assert changed("gamma-correction", skewed, exponent=2.0).max() == pytest.approx(skewed.max(), rel=1e-5)
    assert changed("gamma-correction", skewed, exponent=2.0).mean() < skewed.mean()


def test_n4_takes_most_of_a_bias_field_away():
    z, y, x = np.indices((16, 32, 32)) / 16
    inside = (y - 1) ** 2 + (x - 1) ** 2 < 0.8
    field = np.exp(0.35 * (x - 1) + 0.2 * (y - 1) * (z - 0.5))
    seen = (inside * 600 * field + RANDOM.normal(0, 5, inside.shape))[None]
    found = changed("n4", seen, iterations=(40, 40), shrink=2)[0]
    before, after = (values[inside].std() / values[inside].mean() for values in (seen[0], found))
    assert after < 0.5 * before
    assert np.array_equal(changed("n4", np.ones((1, 8, 8))), np.ones((1, 8, 8)))


def test_morphology_of_grey_values_and_of_masks():
    spot = np.zeros((1, 9, 9))
    spot[0, 4, 4] = 5
    assert not changed("morphology", spot, operation="opening").any()
    assert (changed("morphology", spot, operation="dilation") == 5).sum() == ball(1, 2).sum()
    assert changed("morphology", spot, operation="top-hat")[0, 4, 4] == 5
    mask = np.zeros((1, 7, 7), np.uint8)
    mask[0, 2:4, 2:4], mask[0, 2:4, 4:6] = 1, 2
    grown = make("morphology", operation="dilation", on="masks")(
        Example({"image": spot[:, :7, :7], "mask": mask}, frozenset({"image", "mask"})), None
    )["mask"]
    assert (grown[mask > 0] == mask[mask > 0]).all(), "a structure grew over another"
    assert (grown > 0).sum() > (mask > 0).sum()
    with pytest.raises(JobError, match="operation"):
        make("morphology", operation="top-hat", on="masks").spec(spec_of(world((4, 4, 4))))


@pytest.mark.parametrize("codec", ["jpeg-ls", "jpeg-2000", "rle"])
def test_lossless_codecs_give_whole_numbers_back_and_are_smaller(codec):
    smooth = np.rint(ndimage.gaussian_filter(CT[0], 2))[None]
    found = make("compress", codec=codec)(image(smooth), None)
    assert np.array_equal(found["image"], smooth)
    assert float(found.facts[RATIO]) > 1.2


def test_near_lossless_keeps_its_bound_and_lossy_makes_an_error():
    found = make("compress", max_error=3)(image(CT), None)["image"]
    assert 0 < np.abs(found - CT).max() <= 3
    lossy = make("compress", codec="jpeg-2000", ratio=20.0)(image(CT), None)
    assert float(lossy.facts[RATIO]) > 10
    assert np.abs(lossy["image"] - CT).max() > 3
    with pytest.raises(ValidationError, match="max_error"):
        make("compress", codec="rle", max_error=1)


def test_fractions_are_quantised_within_half_a_step():
    values = RANDOM.normal(0, 1, (20, 20))
    codes, offset, step = quantised(values)
    assert np.abs(codes * step + offset - values).max() <= step / 2 + 1e-12
    assert quantised(np.array([[-1024.0, 3071.0]]))[1:] == (-1024.0, 1.0)


@pytest.mark.parametrize("kind", ["median", "gaussian", "n4"])
def test_padding_stays_and_does_not_leak(kind):
    padding = np.zeros(CT.shape[1:], bool)
    padding[:, :, :8] = True
    values = np.where(padding[None], -2000.0, CT)
    found = make(kind)(image(values, padding=padding), None)["image"]
    assert (found[0][padding] == -2000).all()
    assert found[0][~padding].min() > -300


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.exposure", None)
    with pytest.raises(ConfigError, match=r'"clahe" needs the package skimage') as caught:
        make("clahe")
    assert "pip install 'salus[processing]'" in str(caught.value)
