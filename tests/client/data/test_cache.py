import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.builders import tiny_job

from salus.client.data.cache import RECORD, TensorCache, size_of, transform_hash
from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.prefetch import batches
from salus.client.data.sources.base import SourceOptions
from salus.client.data.sources.image_folder import ImageFolder
from salus.client.data.sources.local import LocalFiles
from salus.common.batch import Field
from salus.common.errors import UnreadableImage
from salus.common.job import Job
from salus.common.job_statistics import Harmonise
from salus.common.tasks import make_task

LARGE = 2**30


SPEC = {"image": Field((1, 4, 6))}


def tensor(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(seed))


def filled(folder: Path, count: int = 5) -> TensorCache:
    cache = TensorCache(folder, "a" * 32, LARGE)
    for n in range(count):
        cache.put(f"content{n}", (10, n), {"image": tensor(n)}, SPEC)
    return cache


def test_tensors_come_back_in_this_process_and_the_next(tmp_path: Path) -> None:
    first = filled(tmp_path)
    with pytest.raises(OSError, match="temporarily unavailable"):
        TensorCache(tmp_path, "a" * 32, LARGE)  # a second writer would overwrite slots
    for reopened in (False, True):
        if reopened:
            first.close()
        cache = TensorCache(tmp_path, "a" * 32, LARGE) if reopened else first
        for n in range(5):
            found = cache.get(f"content{n}", (10, n), SPEC)
            assert found is not None
            assert torch.equal(found["image"], tensor(n))
        assert cache.get("content1", (10, 2), SPEC) is None  # the file has changed
        assert cache.get("content1", None, SPEC) is None  # the file is gone
        assert cache.get("content9", (10, 1), SPEC) is None
        assert cache.get("content1", (10, 1), {"image": Field((1, 6, 4))}) is None
    assert size_of(tmp_path) == 5 * (RECORD.size + 96)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / ("a" * 32)).iterdir()} == {0o600}


@pytest.mark.parametrize("cut", [1, RECORD.size - 1, RECORD.size, 2 * RECORD.size + 7])
def test_a_cut_index_loses_entries_and_never_gives_a_wrong_tensor(tmp_path: Path, cut: int) -> None:
    filled(tmp_path).close()
    index = tmp_path / ("a" * 32) / "index.bin"
    index.write_bytes(index.read_bytes()[:-cut])
    cache = TensorCache(tmp_path, "a" * 32, LARGE)
    kept = [n for n in range(5) if cache.get(f"content{n}", (10, n), SPEC) is not None]
    assert kept == list(range(5 - -(-cut // RECORD.size)))
    cache.put("new", (1, 1), {"image": tensor(77)}, SPEC)
    cache.close()
    again = TensorCache(tmp_path, "a" * 32, LARGE).get("new", (1, 1), SPEC)
    assert again is not None
    assert torch.equal(again["image"], tensor(77))


def test_damaged_and_missing_tensors_are_not_used(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = tmp_path / ("a" * 32) / "tensors.bin"
    data = bytearray(path.read_bytes())
    data[96 * 2 + 5] ^= 1
    path.write_bytes(data[: 96 * 4])
    cache = TensorCache(tmp_path, "a" * 32, LARGE)
    assert [cache.get(f"content{n}", (10, n), SPEC) is not None for n in range(5)] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_the_bound_holds_and_older_transforms_go_first(tmp_path: Path) -> None:
    bound = 400 * (96 + RECORD.size)
    for name in "abc":
        cache = TensorCache(tmp_path, name * 32, bound)
        for n in range(300):
            cache.put(f"{n}", (1, 1), {"image": tensor(n)}, SPEC)
        assert size_of(tmp_path) <= bound + 256 * RECORD.size
    assert not (tmp_path / ("a" * 32)).exists()
    assert cache.get("0", (1, 1), SPEC) is not None
    small = TensorCache(tmp_path / "small", "d" * 32, 50)
    small.put("0", (1, 1), {"image": tensor(0)}, SPEC)
    assert small.get("0", (1, 1), SPEC) is None


def test_what_is_left_of_a_cleared_cache_is_no_cache(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / ("a" * 32) / "tensors.bin").unlink()
    cache = TensorCache(tmp_path, "a" * 32, LARGE)
    assert cache.get("content1", (10, 1), SPEC) is None
    cache.put("content1", (10, 1), {"image": tensor(5)}, SPEC)
    found = cache.get("content1", (10, 1), SPEC)
    assert found is not None
    assert torch.equal(found["image"], tensor(5))


def test_everything_that_changes_a_tensor_changes_its_transforms_name() -> None:
    job = tiny_job()

    def with_task(**changes: object) -> Job:
        return job.model_copy(update={"task": job.task.model_copy(update=changes)})

    def with_scale(**changes: object) -> Job:
        return job.model_copy(update={"harmonise": Harmonise.model_validate(changes)})

    marks = tuple(n / 10 for n in range(11))
    jobs = [
        job,
        with_task(shape=(9, 9)),
        with_task(channels=3),
        with_task(kind="other"),
        with_scale(kind="nyul", landmarks=marks),
        with_scale(kind="nyul", landmarks=(*marks[:5], 0.55, *marks[6:])),
        with_scale(kind="zscore", groups=(("GE", 0.0, 1.0),)),
    ]
    names = [transform_hash(one, "x") for one in jobs] + [transform_hash(job, "y")]
    assert len(set(names)) == len(names)
    assert None not in names
    assert transform_hash(with_task(classes=("a", "b"), model="cnn", dataset="z"), "x") == names[0]
    assert transform_hash(with_task(shape=()), "x") is None
    assert transform_hash(with_scale(kind="combat", constants=(1.0,)), "x") is None


def test_a_stamp_sees_a_replaced_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"12345")
    files, names = LocalFiles(tmp_path, SourceOptions()), ["a", "b"]
    before = files.stamp(names)
    assert before is not None
    old = (tmp_path / "a").stat()
    (tmp_path / "c").write_bytes(b"54321")
    os.utime(tmp_path / "c", ns=(old.st_atime_ns, old.st_mtime_ns))
    (tmp_path / "c").replace(tmp_path / "a")
    assert files.stamp(names) not in (None, before)
    (tmp_path / "b").unlink()
    assert files.stamp(names) is None


def picture_catalogue(folder: Path) -> Catalogue:
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,label"]
    for n in range(12):
        Image.fromarray(rng.integers(0, 255, (10, 10), dtype=np.uint8)).save(folder / f"{n}.png")
        rows.append(f"{n}.png,{n % 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    catalogue = Catalogue(folder.parent / "c.sqlite", b"s" * 16)
    catalogue.add("toy", "images", folder, SourceOptions())
    return catalogue


def test_training_reads_each_picture_once_and_never_one_that_was_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, job = picture_catalogue(tmp_path / "data"), tiny_job()
    task = make_task(job.task)
    memory = Memory(0, tmp_path / "cache", LARGE)
    first = local_data(catalogue, job, task, memory)
    assert first.train._disk is not None
    rows = torch.arange(len(first.train))
    expected = first.train.batch(rows)["image"]
    load = ImageFolder.load
    monkeypatch.setattr(ImageFolder, "load", lambda self, key: pytest.fail("a picture was decoded again"))
    assert not first.train.in_memory
    first.train._disk.close()
    second = local_data(catalogue, job, task, memory).train
    assert torch.equal(second.batch(rows)["image"], expected)
    assert second._disk is not None
    second._disk.close()
    monkeypatch.setattr(ImageFolder, "load", load)
    (tmp_path / "data" / "3.png").unlink()
    (tmp_path / "data" / "4.png").write_bytes((tmp_path / "data" / "5.png").read_bytes())
    assert local_data(catalogue, job, task, memory).left_out == {"missing": 1, "changed": 1}


def test_batches_are_read_ahead_in_order_and_errors_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, job = picture_catalogue(tmp_path / "data"), tiny_job()
    cpu = torch.device("cpu")
    stored = local_data(catalogue, job, make_task(job.task), Memory(LARGE)).train
    streamed = local_data(catalogue, job, make_task(job.task), Memory(0)).train
    parts = torch.split(torch.randperm(len(stored)), 3)
    for ours, theirs in zip(batches(streamed, parts, cpu), batches(stored, parts, cpu), strict=True):
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["label"], theirs["label"])
    before = threading.active_count()
    reading = batches(streamed, parts, cpu)
    next(reading)
    assert threading.active_count() > before
    reading.close()  # a round that fails in the middle; the thread ends with it
    assert threading.active_count() == before
    monkeypatch.setattr(streamed, "batch", lambda rows: (_ for _ in ()).throw(UnreadableImage("missing", "gone")))
    with pytest.raises(UnreadableImage):
        list(batches(streamed, parts, cpu))


def test_all_fields_of_an_item_come_back_with_their_types(tmp_path: Path) -> None:
    spec = {"mask": Field((1, 3, 5), "int64", 0, 9), "image": Field((2, 3, 5)), "age": Field(())}
    fields = {
        "image": torch.randn(2, 3, 5),
        "mask": torch.randint(0, 9, (1, 3, 5)),
        "age": torch.tensor(41.5),
    }
    cache = TensorCache(tmp_path, "a" * 32, LARGE)
    cache.put("one", (1, 1), fields, spec)
    found = cache.get("one", (1, 1), spec)
    assert found is not None
    assert set(found) == set(fields)
    assert all(found[name].dtype == fields[name].dtype for name in fields)
    assert all(torch.equal(found[name], fields[name]) for name in fields)
    found["image"] += 1  # a copy: the cache does not change
    again = cache.get("one", (1, 1), spec)
    assert again is not None
    assert torch.equal(again["image"], fields["image"])
    assert cache.get("one", (1, 1), {**spec, "age": Field((), "int64")}) is None
