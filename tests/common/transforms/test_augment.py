"""Random changes of the grid and of grey values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.common.transforms.worlds import make, spec_of, world

from salus.common.errors import JobError
from salus.common.examples import Example
from salus.common.transforms.augment_grid import rotation
from salus.common.transforms.elastic import _splines
from salus.common.transforms.moves import Resampled, about_centre


@pytest.mark.parametrize("kind", ["affine", "flip", "rotate", "zoom", "elastic", "gaussian-noise", "gamma", "cutout"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_probability_is_kept(kind, probability):
    step, example = make(kind, probability=probability), world((6, 6, 6))
    changed = np.mean([step(example, np.random.default_rng(s))["image"] is not example["image"] for s in range(200)])
    if kind in ("gaussian-noise", "gamma", "cutout"):
        changed = np.mean(
            [not np.array_equal(step(example, np.random.default_rng(s))["image"], example["image"]) for s in range(200)]
        )
    assert changed == pytest.approx(probability, abs=4.5 * np.sqrt(0.25 / 200) * (0 < probability < 1))


@pytest.mark.parametrize("outside", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("shape", [(9, 7, 8), (9, 11)])
def test_a_resampled_grid_is_the_one_of_monai(shape, outside):
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import SpatialResample

    draw = np.random.default_rng(4)
    dims = len(shape)
    matrix = about_centre(rotation(dims, 40.0, (), draw) @ np.diag(draw.uniform(0.7, 1.4, dims)), shape, [0.4] * dims)
    size = tuple(side + 2 for side in shape)
    image, mask = draw.random((2, *shape), dtype=np.float32), draw.integers(0, 5, (1, *shape))
    for values, mode, tolerance in ((image, "bilinear", 1e-4), (mask, "nearest", 0)):
        theirs = SpatialResample(mode=mode, padding_mode=outside, align_corners=False, dtype=np.float32)(
            MetaTensor(torch.from_numpy(values.astype(np.float32)), affine=torch.eye(dims + 1)),
            dst_affine=torch.from_numpy(matrix),
            spatial_size=size,
        )
        ours = Resampled(matrix, size, outside).apply(values)
        assert ours.dtype == values.dtype
        assert np.abs(ours - theirs.as_tensor().numpy()).max() <= tolerance


def test_a_rotation_keeps_distances_in_the_patient_on_an_uneven_grid():
    turn = rotation(3, 90.0, (), np.random.default_rng(1))
    assert np.allclose(turn @ turn.T, np.eye(3))
    example = Example(
        {"image": np.zeros((1, 5, 5, 5), np.float32)}, frozenset({"image"}), np.diag([5.0, 1.0, 1.0, 1.0])
    )
    result = make("rotate", probability=1.0, degrees=30.0)(example, np.random.default_rng(1))
    ours = np.linalg.inv(np.diag([5.0, 1.0, 1.0])) @ result.affine[:3, :3]
    assert np.allclose(result.affine[:3, :3].T @ result.affine[:3, :3], np.diag([25.0, 1.0, 1.0]))
    assert not np.allclose(ours, np.eye(3))


def test_a_volume_turns_around_the_named_axes_only():
    turn = rotation(3, 40.0, (0,), np.random.default_rng(2))
    assert np.allclose(turn[0], [1, 0, 0])
    assert not np.allclose(turn, np.eye(3))


def test_axes_that_do_not_exist_are_refused():
    with pytest.raises(JobError, match="expected different axes from 0 to 1"):
        make("flip", axes=(2,)).spec(spec_of(world((4, 5))))
    with pytest.raises(JobError, match="expected no axes for planes"):
        make("rotate", axes=(0,)).spec(spec_of(world((4, 5))))


def test_without_axes_the_last_one_is_flipped():
    example = world((4, 5))
    result = make("flip", probability=1.0)(example, np.random.default_rng(1))
    assert np.array_equal(result["mask"], example["mask"][:, :, ::-1])


@settings(max_examples=30, deadline=None)
@given(side=st.integers(1, 60), distance=st.floats(2, 20), seed=st.integers(0, 999))
def test_an_elastic_shift_is_bounded_and_does_not_fold(side, distance, seed):
    weights = _splines(side, distance)
    assert np.allclose(weights.sum(axis=1), 1)
    assert (weights >= -1e-12).all()
    shift = weights @ np.random.default_rng(seed).uniform(-0.4 * distance, 0.4 * distance, weights.shape[1])
    assert np.abs(shift).max() <= 0.4 * distance
    assert (np.diff(np.arange(side) + shift) > 0).all()


def test_a_deformation_that_would_fold_is_refused():
    with pytest.raises(ValidationError, match="more folds the image"):
        make("elastic", distance=10.0, magnitude=4.1)


def test_a_tiny_deformation_moves_image_and_mask_alike():
    """A mask that is the image's threshold stays so, but for voxels at its edge."""
    ramp = np.linspace(0, 1, 24, dtype=np.float32)[None, :, None] * np.ones((1, 24, 24), np.float32)
    example = Example({"image": ramp, "mask": (ramp > 0.5).astype(np.uint8)}, frozenset({"image", "mask"}))
    result = make("elastic", probability=1.0, distance=8.0, magnitude=3.0)(example, np.random.default_rng(3))
    clear = np.abs(result["image"] - 0.5) > 1 / 23
    assert np.array_equal(result["mask"][clear], (result["image"] > 0.5)[clear])
    assert not np.array_equal(result["mask"], example["mask"])


def test_cutout_replaces_boxes_of_the_stated_size():
    values = np.random.default_rng(1).random((1, 20, 20), dtype=np.float32)
    result = make("cutout", probability=1.0, share=0.25)(
        Example({"image": values}, frozenset({"image"})), np.random.default_rng(1)
    )
    assert (result["image"] != values).sum() == 25


@pytest.mark.parametrize("kind", ["gamma", "histogram-shift"])
def test_the_order_and_range_of_grey_values_stay(kind):
    values = np.sort(np.random.default_rng(1).normal(0, 50, 100)).reshape(1, 10, 10).astype(np.float32)
    example = Example({"image": values}, frozenset({"image"}))
    for seed in range(20):
        result = make(kind, probability=1.0)(example, np.random.default_rng(seed))["image"]
        assert (np.diff(result.ravel()) >= -1e-3).all()
        assert result.min() == pytest.approx(values.min(), abs=1e-2)
        assert result.max() == pytest.approx(values.max(), abs=1e-2)


@pytest.mark.parametrize("kind", ["gamma", "histogram-shift", "cutout", "gaussian-blur"])
def test_a_flat_image_stays_finite(kind):
    example = Example({"image": np.full((1, 6, 6), 3.0, np.float32)}, frozenset({"image"}))
    assert make(kind, probability=1.0)(example, np.random.default_rng(1))["image"] == pytest.approx(3.0, abs=1e-2)


def test_blur_is_the_gaussian_of_its_width():
    values = np.zeros((1, 31, 31), np.float32)
    values[0, 15, 15] = 1
    example = Example({"image": values}, frozenset({"image"}))
    result = make("gaussian-blur", probability=1.0, low=2.0, high=2.0)(example, np.random.default_rng(1))["image"][0]
    spread = np.sqrt((result.sum(axis=0) * (np.arange(31) - 15) ** 2).sum())
    assert spread == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("kind", ["gamma", "gaussian-blur", "zoom", "affine"])
def test_a_range_upside_down_is_refused(kind):
    with pytest.raises(ValidationError, match="expected low of at most high"):
        make(kind, low=1.4, high=1.0)


def test_brightness_is_a_gain_and_a_shift_of_the_whole_image():
    values = np.random.default_rng(1).normal(0, 1, (3, 8, 8)).astype(np.float32)
    step, gains, shifts = make("brightness", probability=1.0, gain=0.3, shift=0.1), [], []
    for seed in range(200):
        changed = step(Example({"image": values}, frozenset({"image"})), np.random.default_rng(seed))["image"]
        gain, shift = np.polyfit(values.ravel(), changed.ravel(), 1)
        assert changed == pytest.approx(gain * values + shift, abs=1e-4)
        gains.append(gain)
        shifts.append(shift)
    assert 0.7 <= min(gains) < 0.75
    assert 1.25 < max(gains) <= 1.3
    assert -0.1 <= min(shifts) < -0.08
    assert 0.08 < max(shifts) <= 0.1
