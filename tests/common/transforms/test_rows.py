"""Steps that make a row of an image: the features are those computed directly, and the job need not list columns."""

import cv2
import numpy as np
import pytest
from tests.common.features.test_codebook import CENTRES

from salus.common.columns import columns_of
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example
from salus.common.features.codebook import codebook_to_text
from salus.common.features.radiomics import radiomics_of, ranges_of
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.transforms.checks import check_chain

JOB = """
[job]
name = "rows"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "toy"
classes = ["no", "yes"]
{more}
{steps}
[privacy]
noise = "none"
"""
RANGE = "intensity_low = 0.0\nintensity_high = 255.0"
WORDS = np.random.default_rng(0).random((6, 128)) / 8
BAG = f"""[[task.transforms]]
kind = "bag-of-words"
extractor = "dense-sift"
patch_sides = [16]
picture_side = 32
most_keypoints = 25
codebook = "{codebook_to_text(WORDS, 0.0)}"
{RANGE}
"""
RADIOMICS = f'[[task.transforms]]\nkind = "radiomics"\nbins = 8\ndistances = [1]\n{RANGE}\n'


def job(steps: str, kind: str = "tabular", model: str = "logistic", more: str = "") -> Job:
    return parse_job(JOB.format(kind=kind, model=model, steps=steps, more=more))


def example(seed: int = 0) -> Example:
    values = np.random.default_rng(seed).integers(0, 256, (1, 32, 32)).astype(np.float32)
    return Example({"image": values}, frozenset({"image"}))


def test_a_bag_of_words_is_that_computed_directly_by_opencv() -> None:
    task = make_task(job(BAG).task)
    row = task.chain.prefix(example())["features"]
    step = 32 / 5
    points = [
        cv2.KeyPoint((x + 0.5) * step - 0.5, (y + 0.5) * step - 0.5, 16 / 6, 0.0) for y in range(5) for x in range(5)
    ]
    _, raw = cv2.SIFT_create().compute(example()["image"][0].astype(np.uint8), points)
    rooted = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-12))
    centres = np.rint(WORDS * 255) / 255
    nearest = ((rooted[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert np.allclose(row, np.sqrt(np.bincount(nearest, minlength=6) / 25), atol=1e-6)
    assert row.dtype == np.float32


def test_radiomics_are_those_of_the_library() -> None:
    row = make_task(job(RADIOMICS).task).chain.prefix(example())["features"]
    direct = radiomics_of(example()["image"], 0.0, 255.0, 8, (1,))
    assert direct is not None
    assert np.allclose(row, direct.astype(np.float32))


def test_two_steps_give_the_columns_of_both_in_order() -> None:
    both = job(BAG + "keep_image = true\n" + RADIOMICS)
    names = [column.name for column in columns_of(both.task)]
    assert names == [f"region 1 word {n}" for n in range(1, 7)] + list(ranges_of(8, (1,)))
    task = make_task(both.task)
    stages = check_chain(task)
    assert stages[-1].spec["features"].shape == (len(names),)
    fields = task.prepare(task.chain.prefix(example()))
    assert fields["features"].shape == (len(names),)
    assert build_model(both.task, 0)(fields["features"][None]).shape == (1, 2)


def test_a_job_may_list_some_columns_in_its_own_order_and_scale() -> None:
    some = job(RADIOMICS, more='columns = [{name = "range", centre = 0.5, scale = 0.1}, {name = "mean"}]')
    task = make_task(some.task)
    every = dict(
        zip(ranges_of(8, (1,)), make_task(job(RADIOMICS).task).chain.prefix(example())["features"], strict=True)
    )
    found = task.prepare(task.chain.prefix(example()))["features"]
    assert np.allclose(found, [(every["range"] - 0.5) / 0.1, every["mean"]], atol=1e-5)
    with pytest.raises(JobError, match="'age'"):
        make_task(job(RADIOMICS, more='columns = [{name = "age"}]').task)


@pytest.mark.parametrize(("encoding", "regions", "count"), [("histogram", 3, 54), ("vlad", 1, 768)])
def test_encodings_and_regions_have_as_many_columns_as_numbers(encoding: str, regions: int, count: int) -> None:
    wider = job(f'{BAG}encoding = "{encoding}"\nregions = {regions}\n')
    row = make_task(wider.task).chain.prefix(example())["features"]
    assert len(row) == len(columns_of(wider.task)) == count


def test_an_image_that_is_not_finite_is_left_out_and_a_flat_one_is_not() -> None:
    for steps in (BAG, RADIOMICS):
        chain = make_task(job(steps).task).chain
        with pytest.raises(UnreadableImage):
            chain.prefix(Example({"image": np.full((1, 9, 9), np.inf, np.float32)}, frozenset({"image"})))
        assert np.isfinite(
            chain.prefix(Example({"image": np.zeros((1, 1, 1), np.float32)}, frozenset({"image"})))["features"]
        ).all()


def test_what_does_not_fit_is_refused_without_data() -> None:
    with pytest.raises(JobError, match="no task.shape"):
        make_task(job(RADIOMICS, more="shape = [8, 8]").task)
    with pytest.raises(JobError, match="words of 128 numbers"):
        make_task(job(BAG.replace(codebook_to_text(WORDS, 0.0), codebook_to_text(CENTRES, 0.0) + "")).task)
    with pytest.raises(JobError, match="columns"):
        make_task(job(f'{BAG}encoding = "vlad"\nregions = 4\n').task)
    with pytest.raises(JobError, match="low below high"):
        make_task(job(RADIOMICS.replace("255.0", "0.0")).task)
    with pytest.raises(JobError, match="patented"):
        job(BAG.replace("dense-sift", "surf"))
