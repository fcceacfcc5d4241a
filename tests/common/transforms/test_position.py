"""Orientation and spacing."""

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError
from tests.common.transforms.worlds import make, spec_of, world

from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example


@pytest.mark.parametrize("axes", ["SPL", "IAR", "LPS", "RAS", "PSR", "LAI"])
def test_the_axes_run_where_the_job_says(axes):
    result = make("orientation", axes=axes)(world((3, 4, 5)), None)
    labels = (("R", "L"), ("A", "P"), ("I", "S"))
    assert "".join(nibabel.orientations.aff2axcodes(result.affine, labels)) == axes


def test_the_volumes_of_salus_are_already_in_the_default_orientation():
    example = world((3, 4, 5))
    straight = Example(
        example.fields, example.spatial, np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    )  # z, y, x to x, y, z
    result = make("orientation")(straight, None)
    assert np.array_equal(result["image"], example["image"])


@pytest.mark.parametrize("axes", ["SPS", "LRP", "AAA"])
def test_a_direction_twice_is_refused(axes):
    with pytest.raises(ValidationError, match="expected one of L and R"):
        make("orientation", axes=axes)


def test_planes_have_no_orientation():
    with pytest.raises(JobError, match="expected volumes, got images of 2 dimensions"):
        make("orientation").spec(spec_of(world((4, 5))))


def test_the_result_has_the_wanted_spacing_and_about_the_same_extent():
    example = world((9, 10, 11))
    result = make("spacing", mm=(1.0, 2.0, 0.5))(example, None)
    assert result.spacing_mm == pytest.approx((1.0, 2.0, 0.5))
    extent = (np.array(example["image"].shape[1:]) - 1) * example.spacing_mm
    assert np.all(
        np.abs((np.array(result["image"].shape[1:]) - 1) * result.spacing_mm - extent) <= np.array([1, 2, 0.5]) / 2
    )


def test_the_grid_of_monai_is_the_same():
    """A straight grid: MONAI removes shear, which we keep."""
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Spacing

    have = np.diag([2.0, 0.7, 1.3, 1.0])
    image = np.random.default_rng(1).random((1, 7, 12, 9), dtype=np.float32)
    theirs = Spacing((1.1, 1.1, 1.1))(MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(have)))
    ours = make("spacing", mm=(1.1, 1.1, 1.1))(Example({"image": image}, frozenset({"image"}), have), None)
    assert ours["image"].shape == tuple(theirs.shape)
    assert np.allclose(ours.affine, theirs.affine.numpy())
    assert np.abs(ours["image"] - theirs.as_tensor().numpy()).max() < 1e-4


@pytest.mark.parametrize("kind", ["orientation", "spacing"])
@pytest.mark.parametrize("affine", [None, np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_image_without_a_position_cannot_be_used(kind, affine):
    example = world((4, 4, 4))
    step = make(kind, **({"mm": (1.0, 1.0, 1.0)} if kind == "spacing" else {}))
    with pytest.raises(UnreadableImage, match="no-geometry"):
        step(Example(example.fields, example.spatial, affine), None)


def test_a_spacing_that_would_fill_the_memory_is_refused_before_anything_is_allocated():
    example = world((4, 4, 4))
    huge = Example(example.fields, example.spatial, np.diag([90.0, 90.0, 90.0, 1.0]))
    with pytest.raises(UnreadableImage, match="too-large"):
        make("spacing", mm=(0.01, 0.01, 0.01))(huge, None)


def test_the_number_of_distances_is_the_number_of_axes():
    with pytest.raises(JobError, match="expected mm with 3 distances"):
        make("spacing", mm=(1.0, 1.0)).spec(spec_of(world((4, 4, 4))))
