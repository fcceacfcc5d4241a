"""From an item to its tensors through the job's chain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import tiny_job, toy_catalogue

from salus.client.data.examples import example_of
from salus.client.data.loading import LocalData, Memory, local_data
from salus.client.data.records import Sample
from salus.client.data.tensors import Use
from salus.common.errors import DataError, UnreadableImage
from salus.common.job import Job, TaskSettings
from salus.common.tasks import make_task

LARGE = 2**30
RESIZE, RESCALE = {"kind": "resize"}, {"kind": "rescale"}
NOISE = {"kind": "gaussian-noise", "probability": 1.0}


def job_with(*transforms: dict[str, object], **changes: object) -> Job:
    job = tiny_job()
    return job.model_copy(update={"task": job.task.changed(transforms=transforms, **changes)})


def data_of(folder: Path, job: Job, memory: Memory = Memory(LARGE)) -> LocalData:
    folder.mkdir(exist_ok=True)
    return local_data(toy_catalogue(folder), job, make_task(job.task), memory)


ROWS = torch.tensor([3, 1, 20])


def test_without_transforms_the_tasks_own_chain_applies(tmp_path: Path) -> None:
    own = data_of(tmp_path / "a", tiny_job()).train.batch(ROWS)
    named = data_of(tmp_path / "b", job_with(RESIZE, RESCALE)).train.batch(ROWS)
    assert torch.equal(own["image"], named["image"])
    other = data_of(tmp_path / "c", job_with(RESIZE, {**RESCALE, "to_low": 0.0})).train.batch(ROWS)
    assert torch.allclose(other["image"] * 2 - 1, own["image"], atol=1e-6)


@pytest.mark.parametrize("memory", [0, 5000, LARGE])
def test_what_is_random_is_new_in_every_pass_and_the_same_in_the_same(tmp_path: Path, memory: int) -> None:
    data = data_of(tmp_path, job_with(RESIZE, RESCALE, NOISE), Memory(memory)).train
    first, again, later, elsewhere = (
        data.batch(ROWS, use)["image"] for use in (Use(b"s", 0), Use(b"s", 0), Use(b"s", 1), Use(b"t", 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, elsewhere)
    assert torch.equal(data.batch(ROWS.flip(0), Use(b"s", 0))["image"], first.flip(0)), "an image's draws are its own"


def test_validation_images_are_never_changed_at_random(tmp_path: Path) -> None:
    noisy = data_of(tmp_path / "a", job_with(RESIZE, RESCALE, NOISE)).validation
    plain = data_of(tmp_path / "b", job_with(RESIZE, RESCALE)).validation
    assert torch.equal(noisy.batch(torch.arange(5))["image"], plain.batch(torch.arange(5))["image"])


def test_copies_are_behind_each_other_and_differ(tmp_path: Path) -> None:
    whole = data_of(tmp_path, job_with(RESIZE, RESCALE, NOISE, copies=3))
    data = whole.train
    batch = data.batch(ROWS, Use(b"s"))
    assert len(batch) == 9
    assert batch["label"].reshape(3, 3).unique(dim=1).shape == (3, 1)
    each = batch["image"].reshape(3, 3, -1)
    assert not torch.equal(each[:, 0], each[:, 1])
    assert (each.std(dim=1).mean() < each.std(dim=0).mean()).item(), "copies of one image are more alike than images"
    assert len(whole.validation.batch(ROWS[:2])) == 2


def test_a_chain_in_the_modalitys_units_takes_the_intensities() -> None:
    sample = Sample(np.zeros((1, 4, 4), np.float32), intensities=np.full((1, 4, 4), 40.0, np.float32))
    settings = tiny_job().task
    assert example_of(sample, settings, "GE")["image"].max() == 0
    assert example_of(sample, settings, "GE", measured=True)["image"].max() == 40


def masks(*classes: str) -> TaskSettings:
    return tiny_job().task.changed(classes=classes, shape=(2, 3))


def sample_with(mask: np.ndarray, *names: str) -> Sample:
    return Sample(
        np.zeros((1, 2, 3), np.float32), targets={"tumour": mask}, kinds={"tumour": "mask"}, names={"tumour": names}
    )


MASK = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)


def test_a_mask_counts_the_jobs_structures_in_the_jobs_order() -> None:
    settings = masks("cyst", "liver").changed(targets={"mask": "tumour"})
    example = example_of(sample_with(MASK, "liver", "vessel", "cyst"), settings, "GE", annotations=["mask", "spacing"])
    assert example["mask"].tolist() == [[[0, 2, 0], [1, 0, 2]]]
    assert example.spatial == {"image", "mask"}
    assert "spacing" not in example
    plain = example_of(sample_with(MASK), settings, "GE", annotations=["mask"])
    assert plain["mask"].tolist() == [[[0, 1, 2], [0, 2, 1]]], "without names a number is its own name"


def test_structures_that_may_overlap_stay_channels() -> None:
    settings = masks("cyst", "liver").changed(targets={"mask": "tumour"})
    channels = np.stack([MASK == 1, MASK == 2, MASK == 3]).astype(np.uint8)
    example = example_of(sample_with(channels, "liver", "vessel", "cyst"), settings, "GE", annotations=["mask"])
    assert np.array_equal(example["mask"], channels[[2, 0]])


def test_a_mask_that_does_not_tell_a_structure_of_the_job_is_not_used() -> None:
    settings = masks("cyst", "kidney").changed(targets={"mask": "tumour"})
    with pytest.raises(UnreadableImage, match="does not tell 'kidney'"):
        example_of(sample_with(MASK, "liver", "vessel", "cyst"), settings, "GE", annotations=["mask"])
    with pytest.raises(UnreadableImage, match="fewer structures"):
        example_of(
            sample_with(
                np.stack([MASK]),
            ),
            settings,
            "GE",
            annotations=["mask"],
        )


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (3, 4, 4)])
def test_an_image_of_another_kind_is_refused_before_any_transform(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"Expected images of 1 channel\(s\) and 2 dimensions"):
        example_of(Sample(np.zeros(shape, np.float32)), tiny_job().task, "GE")


def test_a_row_of_a_table_is_no_image() -> None:
    with pytest.raises(DataError, match="Expected images, got rows of a table"):
        example_of(Sample(np.zeros(2, np.float32), columns=("a", "b")), tiny_job().task, "GE")


def test_images_of_other_sizes_are_given_one_by_one_and_leave_the_others_together(tmp_path: Path) -> None:
    """Batches of other sizes have other last digits: one patient's odd image would change what all others add under noise."""
    data = data_of(tmp_path, job_with(RESIZE, RESCALE)).validation
    assert [len(part) for part in data.parts(torch.arange(5), 2)] == [2, 2, 1]
    data._shapes[1] = (torch.Size((1, 9, 9)),)
    assert [len(part) for part in data.parts(torch.arange(3), 2)] == [1, 1, 1]
    assert [len(part) for part in data.parts(torch.tensor([2, 3, 4]), 2)] == [2, 1]
