from pathlib import Path

import pytest
import torch
from tests.builders import tiny_job, toy_catalogue, write_npz

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import local_data, target_of
from salus.client.data.records import ImageRecord
from salus.client.data.sources.base import SourceOptions
from salus.common.errors import DataError
from salus.common.tasks import make_task


def test_labels_may_be_names_or_numbers() -> None:
    assert [target_of(label, ["no", "yes"]) for label in ("no", "yes", "1", "2", "maybe", "-1")] == [
        0,
        1,
        1,
        None,
        None,
        None,
    ]


def test_the_sources_own_split_is_kept(tmp_path: Path) -> None:
    job = tiny_job()
    data = local_data(toy_catalogue(tmp_path), job, make_task(job.task), 2**20)
    assert (len(data.train), len(data.validation)) == (40, 20)


def test_without_memory_the_same_batches_come_from_the_source(tmp_path: Path) -> None:
    job = tiny_job()
    catalogue = toy_catalogue(tmp_path)
    cached = local_data(catalogue, job, make_task(job.task), 2**20).train
    streamed = local_data(catalogue, job, make_task(job.task), 0).train
    rows = torch.tensor([3, 1, 20])
    assert torch.equal(cached.batch(rows)[0], streamed.batch(rows)[0])


def test_a_patient_is_never_in_two_splits_and_strange_labels_are_counted(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "toy.npz", images=60)
    found = [ImageRecord(f"p{i // 3}", "s", f"train/{i}", "weird" if i == 59 else str(i % 2)) for i in range(60)]
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add_records("toy", "medmnist", path, SourceOptions(), found)
    job = tiny_job()
    data = local_data(catalogue, job, make_task(job.task), 2**20)
    train, validation = ({item.image.patient for item in part._items} for part in (data.train, data.validation))
    assert train.isdisjoint(validation)
    assert validation
    assert data.left_out == {"label-outside-job": 1}
    assert data.train.patients == len(train)


def test_a_data_set_without_usable_labels_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "toy.npz")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add_records("toy", "medmnist", path, SourceOptions(), [ImageRecord("p", "s", "train/0", "weird")])
    job = tiny_job()
    with pytest.raises(DataError, match="no sample"):
        local_data(catalogue, job, make_task(job.task), 2**20)
