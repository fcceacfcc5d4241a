from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.builders import tiny_job, toy_catalogue, write_npz

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.declaration import target_of
from salus.common.errors import DataError
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
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
    data = local_data(toy_catalogue(tmp_path), job, make_task(job.task), Memory(2**20))
    assert (len(data.train), len(data.validation)) == (40, 20)


def test_without_memory_the_same_batches_come_from_the_source(tmp_path: Path) -> None:
    job = tiny_job()
    catalogue = toy_catalogue(tmp_path)
    cached = local_data(catalogue, job, make_task(job.task), Memory(2**20)).train
    streamed = local_data(catalogue, job, make_task(job.task), Memory(0)).train
    rows = torch.tensor([3, 1, 20])
    assert all(torch.equal(cached.batch(rows)[name], streamed.batch(rows)[name]) for name in ("image", "label"))


def test_a_patient_is_never_in_two_splits_and_strange_labels_are_counted(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "toy.npz", images=60)
    digests = {
        r.key: r.sha256 for r in open_source("medmnist", path, SourceOptions()).scan() if isinstance(r, ImageRecord)
    }
    found = [
        ImageRecord(f"p{i // 3}", "s", f"train/{i}", "weird" if i == 59 else str(i % 2), sha256=digests[f"train/{i}"])
        for i in range(60)
    ]
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add_records("toy", "medmnist", path, SourceOptions(), found)
    job = tiny_job()
    data = local_data(catalogue, job, make_task(job.task), Memory(2**20))
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
        local_data(catalogue, job, make_task(job.task), Memory(2**20))


def test_a_file_that_changed_after_registration_is_left_out(tmp_path: Path) -> None:
    job = tiny_job()
    catalogue = toy_catalogue(tmp_path)
    write_npz(tmp_path / "toy.npz", seed=99)
    with pytest.raises(DataError, match="no sample"):
        local_data(catalogue, job, make_task(job.task), Memory(2**20))


def test_table_columns_are_matched_by_name(tmp_path: Path) -> None:
    settings = TaskSettings(
        kind="tabular",
        model="logistic",
        dataset="toy",
        classes=("no", "yes"),
        columns=(Column(name="age"), Column(name="bp")),
    )
    job = tiny_job().model_copy(update={"task": settings})
    for header, features in (("age,bp,label", [1.0, 2.0]), ("bp,age,extra,label", [2.0, 1.0])):
        folder = tmp_path / header.replace(",", "-")
        folder.mkdir()
        cells = "1,2,no" if header.count(",") == 2 else "1,2,7,no"
        (folder / "t.csv").write_text(f"{header}\n" + f"{cells}\n" * 30)
        catalogue = Catalogue(folder / "c.sqlite", b"s" * 16)
        catalogue.add("toy", "table", folder / "t.csv", SourceOptions())
        data = local_data(catalogue, job, make_task(job.task), Memory(2**20))
        assert data.train.batch(torch.tensor([0]))["features"].tolist() == [features]
    (tmp_path / "w.csv").write_text("weight,height,label\n1,2,no\n")
    catalogue = Catalogue(tmp_path / "w.sqlite", b"s" * 16)
    catalogue.add("toy", "table", tmp_path / "w.csv", SourceOptions())
    with pytest.raises(DataError, match="no sample"):
        local_data(catalogue, job, make_task(job.task), Memory(2**20))


def test_one_odd_sample_does_not_stop_a_site(tmp_path: Path) -> None:
    for number in range(20):
        Image.fromarray(np.full((8, 8), number * 10, np.uint8)).save(tmp_path / f"{number}.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    names = [*(f"{n}.png" for n in range(20)), "colour.png"]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    catalogue = Catalogue(tmp_path.with_suffix(".sqlite"), b"s" * 16)
    catalogue.add("toy", "images", tmp_path, SourceOptions())
    job = tiny_job()
    assert local_data(catalogue, job, make_task(job.task), Memory(2**20)).left_out == {"does-not-fit-job": 1}


def test_a_label_that_a_task_fails_on_costs_its_own_sample_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one patient could switch a whole site off, which everybody sees, noise or not."""
    catalogue, job = toy_catalogue(tmp_path), tiny_job()
    task = make_task(job.task)
    whole = local_data(catalogue, job, task, Memory(2**24))
    kind, before, calls = type(task), type(task).target, iter(range(10**6))

    def failing(self: object, label: str) -> object:
        if next(calls) == 5:
            raise RecursionError
        return before(self, label)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "target", failing)
    found = local_data(catalogue, job, task, Memory(2**24))
    lost = len(whole.train) + len(whole.validation) - len(found.train) - len(found.validation)
    assert (lost, found.left_out) == (1, {"label-outside-job": 1})
