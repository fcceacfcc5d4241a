"""Grey values, held to MONAI's formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.common.transforms.worlds import make, spec_of, world

from salus.common.errors import JobError
from salus.common.examples import Example

RANDOM = np.random.default_rng(5)


def image(values: np.ndarray) -> Example:
    return Example({"image": values.astype(np.float32)}, frozenset({"image"}))


def monai(name: str, **own: Any):
    import monai.transforms as m

    return lambda values: np.asarray(torch.as_tensor(getattr(m, name)(**own)(torch.from_numpy(values))))


CT = (RANDOM.normal(0, 300, (2, 6, 7, 8)) * (RANDOM.random((2, 6, 7, 8)) > 0.3)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "own", "name", "theirs"),
    [
        ("window", {"low": -160.0, "high": 240.0}, "ScaleIntensityRange", {"a_min": -160, "a_max": 240, "clip": True}),
        ("rescale", {"low": -1000.0, "high": 1000.0}, "ScaleIntensityRange", {"a_min": -1000, "a_max": 1000}),
        ("percentiles", {}, "ScaleIntensityRangePercentiles", {"lower": 0.5, "upper": 99.5, "clip": True}),
        ("normalize", {}, "NormalizeIntensity", {"channel_wise": True}),
        ("normalize", {"nonzero": True}, "NormalizeIntensity", {"channel_wise": True, "nonzero": True}),
        ("normalize", {"channel_wise": False}, "NormalizeIntensity", {}),
    ],
)
def test_the_formula_is_the_one_of_monai(kind, own, name, theirs):
    ours = make(kind, **own)(image(CT), None)["image"]
    ends = {} if kind == "normalize" else {"b_min": -1.0, "b_max": 1.0}
    assert np.abs(ours - monai(name, **theirs, **ends)(CT)).max() < 1e-4


def test_pictures_from_0_to_1_become_minus_1_to_1_with_the_bits_of_a_product_and_a_difference():
    values = RANDOM.random((1, 32, 32), dtype=np.float32)
    expected = (torch.from_numpy(values) * 2 - 1).numpy()
    assert np.array_equal(make("rescale")(image(values), None)["image"], expected)


@pytest.mark.parametrize("kind", ["percentiles", "normalize"])
@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.parametrize("nonzero", [False, True])
def test_an_image_of_one_grey_value_stays_finite(kind, value, nonzero):
    result = make(kind, nonzero=nonzero)(image(np.full((1, 4, 4), value)), None)["image"]
    assert np.isfinite(result).all()
    assert np.ptp(result) == 0


def test_a_limit_cuts_off_outliers():
    values = np.zeros((1, 10, 10))
    values[0, 0, 0] = 1000
    assert make("normalize", limit=3.0)(image(values), None)["image"].max() == 3.0


def test_only_the_named_images_are_changed():
    example = world((4, 4, 4)).with_fields(second=np.ones((1, 4, 4, 4), np.float32))
    example = Example(example.fields, example.spatial | {"second"}, example.affine)
    step = make("window", low=0.0, high=1.0, fields=("second",))
    assert step.spec(spec_of(example)) == spec_of(example)
    result = step(example, None)
    assert np.array_equal(result["image"], example["image"])
    assert result["second"].max() == 1.0


@pytest.mark.parametrize("name", ["mask", "label", "nothing"])
def test_a_name_that_is_not_an_image_is_refused(name):
    with pytest.raises(JobError, match=f"expected fields from image, got '{name}'"):
        make("window", low=0.0, high=1.0, fields=(name,)).spec(spec_of(world((4, 4, 4))))


@pytest.mark.parametrize("kind", ["window", "rescale", "percentiles"])
def test_an_empty_range_is_refused(kind):
    with pytest.raises(ValidationError, match="low below high"):
        make(kind, low=5.0, high=5.0)
    with pytest.raises(ValidationError, match="to_low below to_high"):
        make(kind, low=1.0, high=5.0, to_low=1.0, to_high=0.0)
