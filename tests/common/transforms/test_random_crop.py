"""Where patches come from."""

import numpy as np
import pytest
from tests.common.transforms.worlds import make, spec_of, task, world

from salus.common.errors import JobError
from salus.common.examples import Example

DRAWS = 600


def speckled() -> Example:
    """A large structure of 500 voxels, a small one of 1, far apart."""
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, :20, :25] = 1
    mask[0, 33, 51] = 2
    image = np.random.default_rng(1).random((1, 40, 60), dtype=np.float32)
    return Example({"image": image, "mask": mask}, frozenset({"image", "mask"}))


def share_with_small(around: str, share: float) -> float:
    example, step = speckled(), make("random-crop", task((7, 7)), around=around, share=share)
    return float(np.mean([2 in step(example, np.random.default_rng(seed))["mask"] for seed in range(DRAWS)]))


def test_by_class_a_small_structure_is_seen_as_often_as_a_large_one():
    """Binomial, 600 draws: within 4.5 standard deviations, and far from the share by volume."""
    assert share_with_small("classes", 1.0) == pytest.approx(0.5, abs=4.5 * np.sqrt(0.25 / DRAWS))
    assert share_with_small("foreground", 1.0) < 0.05
    assert share_with_small("anywhere", 1.0) < 0.1


def test_structures_that_may_overlap_are_drawn_by_channel():
    example, step = speckled(), make("random-crop", task((7, 7)), around="classes", share=1.0)
    channels = np.concatenate([example["mask"] == 1, example["mask"] == 2]).astype(np.uint8)
    example = example.with_fields(mask=channels)
    small = np.mean([step(example, np.random.default_rng(seed))["mask"][1].any() for seed in range(DRAWS)])
    assert small == pytest.approx(0.5, abs=4.5 * np.sqrt(0.25 / DRAWS))


def test_only_the_given_share_is_centred_on_a_structure():
    assert share_with_small("classes", 0.4) == pytest.approx(0.2 + 0.6 * 49 / (34 * 54), abs=4.5 * np.sqrt(0.2 / DRAWS))


def test_every_place_is_reached():
    values = np.arange(10.0)[None, None].astype(np.float32) * np.ones((1, 4, 1), np.float32)
    example = Example({"image": values}, frozenset({"image"}))
    step = make("random-crop", task((4, 3)))
    starts = {float(step(example, np.random.default_rng(seed))["image"][0, 0, 0]) for seed in range(200)}
    assert starts == set(range(8))


def test_an_empty_mask_gives_a_patch_from_anywhere():
    example = world((9, 9, 9), classes=1)
    result = make("random-crop", task((4, 4, 4)), around="classes", share=1.0)(example, np.random.default_rng(0))
    assert result["image"].shape == (3, 4, 4, 4)


@pytest.mark.parametrize("around", ["foreground", "classes"])
@pytest.mark.parametrize("field", ["image", "nothing"])
def test_without_a_mask_there_is_no_structure_to_centre_on(around, field):
    with pytest.raises(JobError, match=f"expected a mask '{field}'"):
        make("random-crop", around=around, field=field).spec(spec_of(world((9, 9, 9))))
