"""What every transform in the registry must give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.transforms.worlds import make, places, spec_of, task, world

from salus.common.examples import Example
from salus.common.transforms import TRANSFORMS
from salus.common.transforms.base import UNKNOWN, Invertible, grid_shape

OWN = {
    "nyul": {"landmarks": tuple(n / 10 for n in range(11))},
    "zscore": {"groups": (("ALL", 0.0, 5.0),)},
    "window": {"low": -20.0, "high": 20.0},
    "spacing": {"mm": (1.5, 1.5, 1.5)},
    "crop-foreground": {"above": 0.0, "margin": 1},
    "random-crop": {"around": "classes", "share": 0.5},
    "flip": {"probability": 0.5},
    "gamma-correction": {"exponent": 0.5},
    "morphology": {"operation": "opening"},
    "n4": {"iterations": (2,)},
    "elastic": {"probability": 1.0, "distance": 4.0, "magnitude": 1.5},
}
FILTERS = (
    "bilateral", "canny", "clahe", "compress", "equalize", "gamma-correction", "gaussian", "laplacian", "median", "morphology",
    "n4", "non-local-means", "savitzky-golay", "sobel", "total-variation",
)  # fmt: skip
OFTEN = {"probability": 1.0}
GRID = ("affine", "flip", "rotate", "zoom")
VALUES = ("brightness", "cutout", "gamma", "gaussian-blur", "gaussian-noise", "histogram-shift")
INVERTIBLE = ("center-crop", "crop-foreground", "orientation", "pad", "resize", "spacing")
ROWS = ("bag-of-words", "combat", "features", "radiomics")  # these leave no grid; see test_rows and test_scales
KINDS = sorted(set(TRANSFORMS.names()) - set(ROWS))


def built(kind: str, shape: tuple[int, ...]):
    own = dict(OWN.get(kind, OFTEN if kind in (*GRID, *VALUES) else {}))
    if kind == "spacing":
        own["mm"] = (1.5,) * len(shape)
    change = 3 if kind == "resize" and len(shape) == 2 else -2  # a plane that shrinks is smoothed, not quite evenly
    return make(kind, task(tuple(max(2, side + change) for side in shape)), **own)


def shapes(least: int = 2):
    return st.one_of(
        st.tuples(*[st.integers(least, 9)] * 3),
        st.tuples(*[st.integers(least, 12)] * 2),
    )


def fits(kind: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or kind != "orientation"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32))
def test_the_result_has_the_shapes_and_types_that_were_foretold(kind, shape, seed):
    if not fits(kind, shape):
        return
    step, example = built(kind, shape), world(shape)
    known = step.spec(spec_of(example))
    unknown = step.spec({n: f if not f.spatial else _without_sides(f) for n, f in spec_of(example).items()})
    result = step(example, np.random.default_rng(seed))
    assert set(result.fields) == set(example.fields)
    for name, array in result.fields.items():
        for spec in (known[name], unknown[name]):
            assert len(spec.shape) == array.ndim
            assert all(side in (UNKNOWN, got) for side, got in zip(spec.shape, array.shape, strict=True))
        assert array.dtype == example[name].dtype
        assert known[name].spatial == (name in example.spatial)
    grid_shape(result)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32))
def test_a_mask_gets_no_new_class_and_other_fields_stay(kind, shape, seed):
    if not fits(kind, shape):
        return
    example = world(shape)
    result = built(kind, shape)(example, np.random.default_rng(seed))
    assert set(np.unique(result["mask"])) <= {0, *np.unique(example["mask"])}
    assert result["label"] is example["label"]
    if kind in VALUES or kind in ("window", "normalize", "nyul", "percentiles", "rescale", "zscore", *FILTERS):
        assert np.array_equal(result["mask"], example["mask"])
        assert result.affine is example.affine


@pytest.mark.parametrize("kind", [*GRID, *INVERTIBLE, "random-crop"])
@settings(max_examples=25, deadline=None)
@given(shape=shapes(3), seed=st.integers(0, 2**32))
def test_every_voxel_keeps_its_place_in_the_patient(kind, shape, seed):
    """Each voxel's grey values are its millimetres, and the new affine must say the same."""
    if not fits(kind, shape):
        return
    example = world(shape)
    result = built(kind, shape)(example, np.random.default_rng(seed))
    now = places(grid_shape(result), result.affine)
    first = 3 - len(shape)
    back = np.linalg.pinv(example.affine[:3, first:3]) @ (now.reshape(3, -1) - example.affine[:3, 3:4])
    inside = ((back > -1e-6) & (back < np.array(shape)[:, None] - 1 + 1e-6)).all(axis=0).reshape(now.shape[1:])
    assert np.abs(result["image"] - now)[:, inside].max(initial=0) < 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_equal_streams_give_equal_results_and_no_global_state_is_touched(kind):
    shape = (7, 8, 9)
    example, step = world(shape), built(kind, (7, 8, 9))
    before = {name: array.copy() for name, array in example.fields.items()}
    np.random.seed(3)
    torch.manual_seed(3)
    states = np.random.get_state()[1].copy(), torch.random.get_rng_state().clone()
    one = step(example, np.random.default_rng(1))
    np.random.seed(4)
    torch.manual_seed(4)
    again = step(example, np.random.default_rng(1))
    assert all(np.array_equal(one[name], again[name]) for name in one.fields)
    assert all(np.array_equal(example[name], before[name]) for name in before), "the example itself was changed"
    np.random.seed(3)
    torch.manual_seed(3)
    step(example, np.random.default_rng(1))
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.random.get_rng_state(), states[1])
    seeds = range(2, 22 if step.random else 4)
    other = [step(example, np.random.default_rng(seed)) for seed in seeds]
    differs = any(not np.array_equal(one["image"], o["image"]) for o in other)
    assert differs == step.random


@pytest.mark.parametrize("kind", INVERTIBLE)
@settings(max_examples=25, deadline=None)
@given(shape=shapes(3))
def test_the_inverse_returns_to_the_original_grid(kind, shape):
    if not fits(kind, shape):
        return
    example, step = world(shape), built(kind, shape)
    assert isinstance(step, Invertible)
    changed = step(example, None)
    predicted = Example(
        {"probability": changed["image"][:1], "classes": changed["mask"]},
        frozenset({"probability", "classes"}),
        changed.affine,
    )
    back = step.inverse(predicted, example)
    assert grid_shape(back) == shape
    assert np.array_equal(back.affine, example.affine)
    assert back["classes"].dtype == example["mask"].dtype
    if kind in ("orientation", "pad"):
        assert np.array_equal(back["classes"], example["mask"])
        assert np.array_equal(back["probability"], example["image"][:1])
    if kind in ("center-crop", "crop-foreground"):
        kept = back["probability"] != 0
        assert np.array_equal(back["probability"][kept], example["image"][:1][kept])
        assert np.array_equal(back["classes"][kept], example["mask"][kept])


def test_only_transforms_of_the_grid_can_be_undone():
    assert {kind for kind in KINDS if isinstance(built(kind, (8, 8, 8)), Invertible)} == set(INVERTIBLE)


def _without_sides(field):
    return replace(field, shape=(field.shape[0], *[UNKNOWN] * (len(field.shape) - 1)))
