import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.builders import tiny_job

from salus.client.data.cache import RECORD, ExampleCache, decoded, encoded, size_of
from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data, transform_hash
from salus.client.data.prefetch import batches
from salus.client.data.sources.image_folder import ImageFolder
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import Use
from salus.common.errors import UnreadableImage
from salus.common.examples import Example
from salus.common.tasks import make_task

LARGE = 2**30
NAME = "a" * 32


def example(seed: int, shape: tuple[int, ...] = (4, 6)) -> Example:
    draw = np.random.default_rng(seed)
    image = draw.normal(size=(1, *shape)).astype(np.float32)
    mask = draw.integers(0, 5, (1, *shape), dtype=np.uint8)
    fields = {"image": image, "mask": mask, "row": draw.normal(size=3)}
    return Example(fields, frozenset({"image", "mask"}), draw.normal(size=(4, 4)) if seed % 2 else None)


def same(one: Example | None, other: Example) -> bool:
    return (
        one is not None
        and set(one.fields) == set(other.fields)
        and one.spatial == other.spatial
        and all(one[n].dtype == other[n].dtype and np.array_equal(one[n], other[n]) for n in one.fields)
        and (one.affine is None) == (other.affine is None)
        and (one.affine is None or np.array_equal(one.affine, other.affine))
    )


def key(name: str) -> bytes:
    return name.encode().ljust(32)


def filled(folder: Path, count: int = 5) -> ExampleCache:
    cache = ExampleCache(folder, NAME, LARGE)
    for n in range(count):
        cache.put(key(f"content{n}"), (10, n), example(n, (4, 6 + n)))
    return cache


def test_examples_of_any_size_come_back_in_this_process_and_the_next(tmp_path: Path) -> None:
    first = filled(tmp_path)
    with pytest.raises(OSError, match="temporarily unavailable"):
        ExampleCache(tmp_path, NAME, LARGE)  # a second writer would overwrite the first one's
    for reopened in (False, True):
        if reopened:
            first.close()
        cache = ExampleCache(tmp_path, NAME, LARGE) if reopened else first
        for n in range(5):
            assert same(cache.get(key(f"content{n}"), (10, n)), example(n, (4, 6 + n)))
        assert cache.get(key("content1"), (10, 2)) is None  # the file has changed
        assert cache.get(key("content1"), None) is None  # the file is gone
        assert cache.get(key("content9"), (10, 1)) is None
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / NAME).iterdir()} == {0o600}


@pytest.mark.parametrize("cut", [1, RECORD.size - 1, RECORD.size, 2 * RECORD.size + 7])
def test_a_cut_index_loses_entries_and_never_gives_a_wrong_example(tmp_path: Path, cut: int) -> None:
    filled(tmp_path).close()
    index = tmp_path / NAME / "index.bin"
    index.write_bytes(index.read_bytes()[:-cut])
    cache = ExampleCache(tmp_path, NAME, LARGE)
    kept = [n for n in range(5) if cache.get(key(f"content{n}"), (10, n)) is not None]
    assert kept == list(range(5 - -(-cut // RECORD.size)))
    cache.put(key("new"), (1, 1), example(77))
    cache.close()
    assert same(ExampleCache(tmp_path, NAME, LARGE).get(key("new"), (1, 1)), example(77))


def test_damaged_and_missing_examples_are_not_used(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    ends = np.cumsum([len(encoded(example(n, (4, 6 + n)))) for n in range(5)])
    cache.close()
    path = tmp_path / NAME / "images.bin"
    data = bytearray(path.read_bytes())
    data[ends[2] - 5] ^= 1
    path.write_bytes(data[: ends[3]])
    cache = ExampleCache(tmp_path, NAME, LARGE)
    found = [cache.get(key(f"content{n}"), (10, n)) is not None for n in range(5)]
    assert found == [True, True, False, True, False]


def test_the_bound_holds_and_older_transforms_go_first(tmp_path: Path) -> None:
    bound = 400 * (len(encoded(example(1))) + RECORD.size)
    for name in "abc":
        cache = ExampleCache(tmp_path, name * 32, bound)
        for n in range(300):
            cache.put(key(f"{n}"), (1, 1), example(1))
        assert size_of(tmp_path) <= bound
    assert not (tmp_path / NAME).exists()
    assert same(cache.get(key("0"), (1, 1)), example(1))
    small = ExampleCache(tmp_path / "small", "d" * 32, 50)
    small.put(key("0"), (1, 1), example(0))
    assert small.get(key("0"), (1, 1)) is None


def test_what_is_left_of_a_cleared_cache_is_no_cache(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / NAME / "images.bin").unlink()
    cache = ExampleCache(tmp_path, NAME, LARGE)
    assert cache.get(key("content1"), (10, 1)) is None
    cache.put(key("content1"), (10, 1), example(5))
    assert same(cache.get(key("content1"), (10, 1)), example(5))


@pytest.mark.parametrize("data", [b"", b"\x05", b"\xff" * 40, encoded(example(1))[:-1]])
def test_bytes_that_are_not_an_example_are_never_decoded_as_one(data: bytes) -> None:
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid|buffer"):
        decoded(data)


def test_everything_that_changes_an_example_changes_its_transforms_name() -> None:
    job = tiny_job()

    def name(options: str = "x", **changes: object) -> str | None:
        task = make_task(job.task.changed(**changes))
        return transform_hash(task, task.chain, options)

    resize, nyul = {"kind": "resize"}, {"kind": "nyul", "landmarks": tuple(n / 10 for n in range(11))}
    turned = {"kind": "rotate"}
    others = [
        name(shape=(9, 9)),
        name(channels=3),
        name(options="y"),
        name(transforms=(resize,)),
        name(transforms=({"kind": "resize", "mode": "area"},)),
        name(
            transforms=(
                nyul,
                resize,
            )
        ),
        name(
            transforms=(
                resize,
                nyul,
            )
        ),
        name(
            transforms=(
                nyul,
                {**resize, "size": (4, 4)},
                resize,
            )
        ),
    ]
    names = [name(), *others]
    assert len(set(names)) == len(names)
    assert None not in names
    assert name(classes=("a", "b"), model="cnn", dataset="z") == names[0]
    assert name(
        transforms=(
            resize,
            turned,
        )
    ) == name(transforms=(resize,))  # what is random is not kept


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
    assert first.train._preparer._disk is not None
    rows = torch.arange(len(first.train))
    expected = first.train.batch(rows)["image"]
    load = ImageFolder.load
    monkeypatch.setattr(ImageFolder, "load", lambda self, key: pytest.fail("a picture was decoded again"))
    assert not first.train.in_memory
    first.train._preparer._disk.close()
    second = local_data(catalogue, job, task, memory).train
    assert torch.equal(second.batch(rows)["image"], expected)
    assert second._preparer._disk is not None
    second._preparer._disk.close()
    monkeypatch.setattr(ImageFolder, "load", load)
    (tmp_path / "data" / "3.png").unlink()
    (tmp_path / "data" / "4.png").write_bytes((tmp_path / "data" / "5.png").read_bytes())
    assert local_data(catalogue, job, task, memory).left_out == {"missing": 1, "changed": 1}


def test_a_random_chain_keeps_its_fixed_part_on_disk_and_draws_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, job = picture_catalogue(tmp_path / "data"), tiny_job()
    steps = ({"kind": "resize"}, {"kind": "rescale"}, {"kind": "gaussian-noise", "probability": 1.0})
    task = make_task(job.task.changed(transforms=steps))
    memory, rows = Memory(0, tmp_path / "cache", LARGE), torch.arange(4)
    first = local_data(catalogue, job, task, memory).train
    expected = first.batch(rows, Use(b"s", 1))["image"]
    assert first._preparer._disk is not None
    first._preparer._disk.close()
    monkeypatch.setattr(ImageFolder, "load", lambda self, key: pytest.fail("a picture was decoded again"))
    again = local_data(catalogue, job, task, memory).train
    assert torch.equal(again.batch(rows, Use(b"s", 1))["image"], expected)
    assert not torch.equal(again.batch(rows, Use(b"s", 2))["image"], expected)


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
    monkeypatch.setattr(streamed, "batch", lambda rows, use: (_ for _ in ()).throw(UnreadableImage("missing", "gone")))
    with pytest.raises(UnreadableImage):
        list(batches(streamed, parts, cpu))
