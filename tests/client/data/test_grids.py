"""Annotations on an image's grid, against an oracle that looks up one voxel after the other in millimetres."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.client.data.grids import index_map, planes, regular, resampled, same_grid, share_outside


def oracle(values: np.ndarray, image: np.ndarray, annotation: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the class of the annotation's voxel in whose box the centre of each of the image's voxels lies."""
    result = np.zeros(shape, values.dtype)
    back = np.linalg.inv(annotation)
    for place in itertools.product(*map(range, shape)):
        millimetres = image @ np.array([*place, 1.0])
        index = [int(np.floor(value + 0.5 + 1e-6)) for value in (back @ millimetres)[:3]]
        if all(0 <= one < side for one, side in zip(index, values.shape, strict=True)):
            result[place] = values[tuple(index)]
    return result


def affine(seed: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    if kind == "oblique":
        matrix[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    else:
        order = rng.permutation(3)
        matrix[:3, :3] = np.eye(3)[order] * rng.choice([-1.0, 1.0], size=3)
    matrix[:3, :3] *= rng.uniform(0.5, 2.5, size=3)
    matrix[:3, 3] = rng.uniform(-4, 4, size=3)
    return matrix


@pytest.mark.parametrize("kind", ["oblique", "straight"])
@given(seed=st.integers(0, 10**6))
def test_every_voxel_has_the_class_of_the_place_where_it_lies(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, size=rng.integers(1, 6, size=3)).astype(np.uint8)
    shape = tuple(int(side) for side in rng.integers(1, 6, size=3))
    image, annotation = affine(seed, kind), affine(seed + 1, kind if seed % 2 else "straight")
    matrix = index_map(image, annotation)
    assert np.array_equal(resampled(values, matrix, shape), oracle(values, image, annotation, shape))


def test_the_same_grid_is_known_at_every_corner() -> None:
    assert same_grid((50, 60, 70), np.eye(4) + 1e-6)
    turned = np.eye(4)
    turned[0, 2] = 0.01  # the first voxels agree, the last one is 0.7 voxels away
    assert not same_grid((50, 60, 70), turned)
    moved = np.eye(4)
    moved[1, 3] = 0.5
    assert not same_grid((50, 60, 70), moved)


def test_what_lies_outside_the_image_is_measured() -> None:
    values = np.zeros((1, 4, 10), np.uint8)
    values[0, :, 2:8] = 1
    matrix = np.eye(4)
    matrix[2, 3] = 5.0  # the image begins at the annotation's sixth column
    assert share_outside(values, matrix, (1, 4, 10)) == pytest.approx(3 / 6)
    assert share_outside(values, np.eye(4), (1, 4, 10)) == 0.0
    assert share_outside(np.zeros_like(values), matrix, (1, 4, 10)) == 0.0


def test_a_plane_covers_what_is_nearest_to_it_and_not_more_than_its_thickness() -> None:
    look = planes(np.array([0.0, 1.0, 4.0]), 0.5)
    assert look(np.array([-0.6, -0.5, 0.49, 0.51, 1.5, 2.5, 3.6, 4.5, 4.6])).tolist() == [-1, 0, 0, 1, 1, -1, 2, 2, -1]
    assert regular(3)(np.array([-0.51, -0.5, 2.49, 2.5])).tolist() == [-1, 0, 2, -1]
