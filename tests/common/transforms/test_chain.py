"""A chain of transforms."""

import numpy as np
import pytest
from tests.common.transforms.worlds import spec_of, task, world

from salus.common.batch import Field
from salus.common.errors import JobError
from salus.common.examples import Example
from salus.common.strict import Strict
from salus.common.transforms import TRANSFORMS
from salus.common.transforms.base import UNKNOWN
from salus.common.transforms.chain import Chain
from salus.common.transforms.checks import check_result, unresolved
from salus.common.transforms.streams import stream

TASK_SPEC = {
    "image": Field((3, 8, 8, 8), spatial=True),
    "mask": Field((1, 8, 8, 8), "int64", 0, 4, spatial=True),
    "label": Field((), "int64", 0, 2),
}


def entry(kind: str, **own) -> Strict:
    found: Strict = TRANSFORMS.get(kind).Settings(kind=kind, **own)
    return found


def chain(*entries: Strict) -> Chain:
    return Chain.of(entries, task((8, 8, 8)))


WHOLE = (
    entry("orientation"),
    entry("spacing", mm=(1.2, 1.2, 1.2)),
    entry("window", low=-20.0, high=20.0),
    entry("crop-foreground", above=-0.9),
    entry("random-crop", size=(8, 8, 8)),
    entry("flip"),
    entry("gaussian-noise", probability=1.0),
)


def test_the_fixed_part_ends_before_the_first_random_step():
    assert chain(*WHOLE).fixed == 4
    assert chain(*WHOLE).random
    assert not chain(*WHOLE[:4]).random
    assert chain().fixed == 0


def test_both_parts_together_are_the_steps_one_after_the_other():
    parts, example = chain(*WHOLE), world((12, 13, 14))
    result = parts.rest(parts.prefix(example), stream(b"s" * 32, "image", 1, 0))
    assert result["image"].shape == (3, 8, 8, 8)
    assert result["mask"].shape == (1, 8, 8, 8)
    again = parts.rest(parts.prefix(example), stream(b"s" * 32, "image", 1, 0))
    assert all(np.array_equal(result[name], again[name]) for name in result.fields)


def test_evaluation_runs_the_fixed_steps_wherever_they_stand():
    parts = chain(entry("flip", probability=1.0), entry("window", low=0.0, high=1.0), entry("center-crop"))
    example = world((9, 9, 9))
    result = parts.evaluated(parts.prefix(example))
    assert result["image"].shape == (3, 8, 8, 8)
    assert np.array_equal(result["mask"], example["mask"][:, :8, :8, :8])
    assert result["image"].max() <= 1
    assert parts.spec(spec_of(example), training=False)["image"].shape == (3, 8, 8, 8)


def test_what_one_step_draws_does_not_change_what_the_next_one_does():
    example = world((8, 8, 8))
    noise = entry("gaussian-noise", probability=1.0)
    rare, often = (chain(entry("cutout", probability=p, holes=9), noise) for p in (0.0, 1.0))
    plain = rare.rest(example, stream(b"s", 1))["image"]
    cut = often.rest(example, stream(b"s", 1))["image"]
    same = plain == cut
    assert 0.3 < same.mean() < 1


def test_a_chain_of_no_steps_changes_nothing():
    example = world((4, 4, 4))
    assert chain().rest(chain().prefix(example), stream(b"s", 1)) is example
    assert chain().evaluated(example) is example


def test_streams_of_other_uses_are_independent():
    """Pairs of copies, rounds, images and sites: correlation of 4 000 normal draws within 5 standard deviations of none."""
    uses = [stream(b"a" * 32, "x", 1, 0), stream(b"a" * 32, "x", 1, 1), stream(b"a" * 32, "x", 2, 0)]
    uses += [stream(b"a" * 32, "y", 1, 0), stream(b"b" * 32, "x", 1, 0), stream(b"a" * 32, "x1", 0)]
    draws = np.stack([use.standard_normal(4000) for use in uses])
    others = np.corrcoef(draws) - np.eye(len(uses))
    assert np.abs(others).max() < 5 / np.sqrt(4000)
    assert np.array_equal(stream(b"a" * 32, "x", 1, 0).standard_normal(4000), draws[0])


def test_the_stream_is_the_same_on_every_machine():
    assert stream(b"k" * 32, "image", 3, 1).integers(2**32, size=2).tolist() == [1847803077, 3078150290]


def test_a_step_that_does_not_fit_is_named():
    parts = chain(entry("window", low=0.0, high=1.0), entry("flip"), entry("resize", size=(8, 8)))
    with pytest.raises(JobError, match=r"transforms\[2\] resize: expected a size of 3 sides, got \[8, 8\]"):
        parts.stages(unresolved(TASK_SPEC))


def test_sides_that_depend_on_the_image_are_refused_at_the_end():
    with pytest.raises(
        JobError, match=r"transforms\[0\] spacing: the sides of 'image' still depend on the image: 3 x \? x \? x \?"
    ):
        check_result(chain(entry("spacing", mm=(1.0, 1.0, 1.0))), TASK_SPEC)
    with pytest.raises(JobError, match="task.transforms: the sides of 'image' still depend"):
        check_result(chain(), TASK_SPEC)


def test_another_size_than_the_tasks_is_refused():
    with pytest.raises(
        JobError, match=r"transforms\[0\] resize: expected 'image' of 3 x 8 x 8 x 8, the chain gives 3 x 8 x 8 x 4"
    ):
        check_result(chain(entry("resize", size=(8, 8, 4))), TASK_SPEC)


def test_a_whole_chain_is_checked_without_data():
    stages = check_result(chain(*WHOLE), TASK_SPEC)
    assert [stage.name for stage in stages][:2] == ["transforms[0] orientation", "transforms[1] spacing"]
    assert stages[3].spec["image"].shape == (3, UNKNOWN, UNKNOWN, UNKNOWN)
    assert stages[-1].spec["mask"].shape == (1, 8, 8, 8)


def test_the_key_holds_the_fixed_part_and_its_versions():
    key = chain(*WHOLE).key()
    assert [part["kind"] for part in key] == ["orientation", "spacing", "window", "crop-foreground"]
    assert key[1]["settings"]["mm"] == [1.2, 1.2, 1.2]
    assert key != chain(*WHOLE[:3], entry("crop-foreground", above=-0.8), *WHOLE[4:]).key()
    assert key == chain(*WHOLE[:4], entry("flip")).key()


def test_a_prediction_returns_to_the_original_image():
    """A structure found by its grey value is found again at the same voxels, but for those that resampling blurs."""
    image = np.zeros((1, 30, 40, 36), np.float32)
    image[0, 10:22, 15:30, 8:28] = 1
    affine = np.diag([2.0, 1.0, 1.5, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = [-20, 5, 30]
    original = Example({"image": image}, frozenset({"image"}), affine)
    parts = chain(
        entry("orientation", axes="IAR"),
        entry("spacing", mm=(1.5, 1.5, 1.5)),
        entry("crop-foreground", margin=3),
        entry("flip", probability=1.0),
        entry("pad", size=(24, 24, 24)),
        entry("resize", size=(32, 32, 32)),
    )
    traced = parts.traced(original)
    model = traced[-1]["image"]
    predicted = Example(
        {"classes": (model > 0.5).astype(np.int64), "p": model}, frozenset({"classes", "p"}), traced[-1].affine
    )
    back = parts.inverse(predicted, traced)
    assert back["classes"].shape == image.shape
    assert np.array_equal(back.affine, affine)
    both = (back["classes"] > 0) & (image > 0)
    dice = 2 * both.sum() / ((back["classes"] > 0).sum() + (image > 0).sum())
    assert dice > 0.95
    centre = [np.mean(np.nonzero(array[0]), axis=1) for array in (back["classes"], image)]
    assert np.abs(centre[0] - centre[1]).max() < 0.5
