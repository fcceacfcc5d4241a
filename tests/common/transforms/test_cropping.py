"""Crops and pads."""

import numpy as np
import pytest
from tests.common.transforms.worlds import make, spec_of, task, world

from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example
from salus.common.transforms.base import UNKNOWN, with_sides


def image(values: np.ndarray) -> Example:
    return Example({"image": values.astype(np.float32)}, frozenset({"image"}))


def test_the_box_holds_the_foreground_and_its_margin():
    values = np.zeros((1, 10, 12))
    values[0, 3:5, 2:9] = 1
    assert make("crop-foreground")(image(values), None)["image"].shape == (1, 2, 7)
    assert make("crop-foreground", margin=2)(image(values), None)["image"].shape == (1, 6, 11)
    assert make("crop-foreground", margin=50)(image(values), None)["image"].shape == (1, 10, 12)


def test_an_image_without_foreground_stays():
    values = np.zeros((1, 4, 5))
    assert np.array_equal(make("crop-foreground")(image(values), None)["image"], values)


def test_a_mask_may_not_decide_where_to_crop():
    with pytest.raises(JobError, match="expected fields from image, got 'mask'"):
        make("crop-foreground", field="mask").spec(spec_of(world((4, 4, 4))))


def test_the_middle_is_taken_and_smaller_images_are_padded():
    values = np.arange(1, 6)[None, None] * np.ones((1, 5, 1))
    result = make("center-crop", size=(7, 3), value=-1.0)(image(values), None)["image"]
    assert result.shape == (1, 7, 3)
    assert np.array_equal(result[0, 3], [2, 3, 4])
    assert np.all(result[0, [0, -1]] == -1)


def test_an_added_part_of_a_mask_is_background_whatever_the_grey_value():
    result = make("pad", size=(9, 9, 9), value=5.0)(world((3, 3, 3)), None)
    assert result["image"][0, 0, 0, 0] == 5.0
    assert result["mask"][0, 0, 0, 0] == 0
    assert result["mask"].dtype == np.uint8


@pytest.mark.parametrize(("side", "padded"), [(1, 16), (16, 16), (17, 32)])
def test_sides_become_multiples(side, padded):
    example = world((side, 16, 5))
    step = make("pad", multiple_of=16)
    assert step(example, None)["image"].shape[1:] == (padded, 16, 16)
    assert step.spec(spec_of(example))["image"].shape[1:] == (padded, 16, 16)
    assert step.spec(with_sides(spec_of(example), (UNKNOWN,) * 3))["image"].shape[1:] == (UNKNOWN,) * 3


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_an_image_may_be_continued(mode):
    result = make("pad", size=(4, 8), mode=mode)(image(np.array([[[1.0, 2.0, 3.0, 4.0]] * 4])), None)["image"]
    expected = [1, 1, 1, 2, 3, 4, 4, 4] if mode == "edge" else [3, 2, 1, 2, 3, 4, 3, 2]
    assert result[0, 1].tolist() == expected


@pytest.mark.parametrize("kind", ["pad", "center-crop", "resize", "random-crop"])
def test_the_size_is_the_tasks_shape_unless_the_step_says_otherwise(kind):
    given = spec_of(world((20, 20, 20)) if kind != "pad" else world((2, 2, 2)))
    assert make(kind, task((5, 6, 7))).spec(given)["mask"].shape == (1, 5, 6, 7)
    assert make(kind, task((5, 6, 7)), size=(4, 4, 4)).spec(given)["mask"].shape == (1, 4, 4, 4)
    with pytest.raises(JobError, match="expected a size of 3 sides"):
        make(kind, task((5, 6, 7)), size=(4, 4)).spec(given)


@pytest.mark.parametrize("kind", ["resize", "center-crop", "pad", "random-crop"])
def test_a_size_that_no_machine_has_memory_for_is_refused_without_data(kind):
    """Each side alone is allowed; all three are 256 GB."""
    settings = {"kind": kind, "size": (4096, 4096, 4096)}
    with pytest.raises(JobError, match="expected a size of at most 67108864 numbers"):
        make(**settings).spec(with_sides(spec_of(world((4, 4, 4))), (UNKNOWN,) * 3))


def test_a_frame_that_is_large_only_together_with_the_image_is_refused_before_it_is_made():
    """A pad takes the larger of its own side and of the image's."""
    thin = Example({"image": np.zeros((1, 1, 4096, 4096), np.float32)}, frozenset({"image"}))
    step = make("pad", size=(4096, 1, 1))
    step.spec(with_sides(spec_of(world((4, 4, 4))), (UNKNOWN,) * 3))
    with pytest.raises(UnreadableImage, match="too many voxels"):
        step(thin, None)
