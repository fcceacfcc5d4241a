"""Patients as items: which of their images, in which order, with which label, and that each image is transformed by itself."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import LocalData, Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import Use
from salus.common.errors import DataError
from salus.common.job import Job, parse_job
from salus.common.tasks import make_task

JOB = """
[job]
name = "s"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "visits"
classes = ["well", "ill"]
shape = [8, 8]
most_images = 3
{more}
[privacy]
noise = "none"
"""
# For each patient the labels of its pictures; picture n is of grey value 10 (n + 1).
PATIENTS = {
    "a": ("well", "well"),
    "b": ("ill", "ill", "ill", "ill", "ill"),
    "c": ("well", "ill", "well"),
    "d": ("well",),
}


def write(folder: Path, patients: dict[str, tuple[str, ...]], *, noisy: bool = False) -> Path:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "PatientID", "label", "split"))
        number = 0
        for patient, labels in patients.items():
            for label in labels:
                values = rng.integers(0, 255, (8, 8)) if noisy else np.full((8, 8), 10 * (number + 1))
                Image.fromarray(values.astype(np.uint8)).save(folder / f"images/{number:03d}.png")
                rows.writerow((f"images/{number:03d}.png", patient, label, "train"))
                number += 1
    return folder


def job(kind: str = "sequence", model: str = "gru", more: str = "") -> Job:
    return parse_job(JOB.format(kind=kind, model=model, more=more))


def loaded(tmp_path: Path, of: Job, root: Path) -> LocalData:
    tmp_path.mkdir(exist_ok=True)
    catalogue = Catalogue(tmp_path / "c.sqlite", bytes(range(32)))
    catalogue.add("visits", "images", root, SourceOptions())
    return local_data(catalogue, of, make_task(of.task), Memory(2**24))


def greys(data: LocalData) -> dict[tuple[int, ...], int]:
    """Return each item's grey values of the pictures that are there, with its label."""
    batch = data.train.batch(torch.arange(len(data.train)))
    found = {}
    for image, there, label in zip(batch["image"], batch["image.there"], batch["label"], strict=True):
        count = int(there.sum())
        assert there.tolist() == [1.0] * count + [0.0] * (len(there) - count)
        assert image[count:].abs().sum() == 0
        grey = (image[:count].mean(dim=(1, 2, 3)) + 1) / 2 * 255
        found[tuple(int(value) for value in grey.round())] = int(label)
    return found


def test_a_sequence_has_all_visits_in_their_order_and_one_label(tmp_path: Path) -> None:
    data = loaded(tmp_path, job(), write(tmp_path / "d", PATIENTS))
    found = greys(data)
    assert found.pop((10, 20)) == 0
    assert found.pop((110,)) == 0
    ((kept, label),) = found.items()  # of the patient with five pictures
    assert label == 1
    assert len(kept) == 3
    assert set(kept) < {30, 40, 50, 60, 70}
    assert list(kept) == sorted(kept)
    assert data.left_out == {"labels-differ": 3, "beyond-most-images": 2}
    assert data.train.patients == len(data.train) == len(data.train.by_patient()) == 3


@pytest.mark.parametrize(
    ("cells", "order"),
    [
        (("2026-03-01", "2025-12-31", "2026-01-15T10:30"), [20, 30, 10]),
        (("10", "9", "-1.5"), [30, 20, 10]),
        (("3", "", "1"), [10, 20, 30]),  # one that has no place: as in the file
    ],
)
def test_visits_are_in_the_order_of_a_column(tmp_path: Path, cells: tuple[str, ...], order: list[int]) -> None:
    root = write(tmp_path / "d", {"a": ("well",) * 3})
    with_column(root, cells)
    catalogue, of = Catalogue(tmp_path / "c.sqlite", bytes(range(32))), job()
    catalogue.add("visits", "images", root, SourceOptions(order_column="when"))
    assert list(greys(local_data(catalogue, of, make_task(of.task), Memory(2**24)))) == [tuple(order)]
    assert all(str(fact.info.get("order", 0)) in "012" for fact in catalogue.facts("visits")), "a rank, and no date"


@pytest.mark.parametrize("cells", [("1", "nan", "2"), ("1e999", "5", "6")])
def test_cells_that_are_before_or_after_nothing_are_refused(tmp_path: Path, cells: tuple[str, ...]) -> None:
    root = write(tmp_path / "d", {"a": ("well",) * 3})
    with_column(root, cells)
    catalogue = Catalogue(tmp_path / "c.sqlite", bytes(range(32)))
    with pytest.raises(DataError, match="dates such as"):
        catalogue.add("visits", "images", root, SourceOptions(order_column="when"))


def test_an_order_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "d", {"a": ("well",) * 3})
    for _ in range(2):
        with_column(root, ("1", "2", "3"))
    with pytest.raises(DataError, match="several columns 'when'"):
        Catalogue(tmp_path / "c.sqlite", bytes(range(32))).add(
            "visits", "images", root, SourceOptions(order_column="when")
        )


@pytest.mark.parametrize(("column", "said"), [("when", "dates such as"), ("then", "Expected a column 'then'")])
def test_a_column_that_orders_nothing_is_refused(tmp_path: Path, column: str, said: str) -> None:
    root = write(tmp_path / "d", {"a": ("well",) * 3})
    with_column(root, ("2026-03-01", "in May", "7"))
    with pytest.raises(DataError, match=said):
        Catalogue(tmp_path / "c.sqlite", bytes(range(32))).add(
            "visits", "images", root, SourceOptions(order_column=column)
        )


def with_column(root: Path, cells: tuple[str, ...]) -> None:
    lines = (root / "labels.csv").read_text().splitlines()
    pairs = zip(lines, ("when", *cells), strict=True)
    (root / "labels.csv").write_text("\n".join(f"{line},{cell}" for line, cell in pairs) + "\n")


def test_a_bag_is_positive_if_any_picture_is(tmp_path: Path) -> None:
    data = loaded(tmp_path, job("multi-instance", "bag"), write(tmp_path / "d", PATIENTS))
    assert sorted(greys(data).values()) == [0, 0, 1, 1]
    assert greys(data)[80, 90, 100] == 1


def test_a_choice_among_too_many_images_depends_on_that_patient_only(tmp_path: Path) -> None:
    both = greys(loaded(tmp_path / "1", job(), write(tmp_path / "d", PATIENTS)))
    fewer = {"x": ("well",) * 2, "b": PATIENTS["b"]}
    alone = greys(loaded(tmp_path / "2", job(), write(tmp_path / "e", fewer)))
    assert {kept for kept in both if len(kept) == 3} == {kept for kept in alone if len(kept) == 3}


def test_an_image_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    root = write(tmp_path / "d", PATIENTS)
    catalogue = Catalogue(tmp_path / "c.sqlite", bytes(range(32)))
    catalogue.add("visits", "images", root, SourceOptions())
    (root / "images/000.png").unlink()
    (root / "images/010.png").unlink()
    of = job()
    data = local_data(catalogue, of, make_task(of.task), Memory(2**24))
    assert (20,) in greys(data)
    assert len(data.train) == 2
    assert len(data.train.lost) == 2
    assert data.trouble() is not None


@pytest.mark.parametrize("cache_bytes", [0, 2**24])
def test_random_steps_are_drawn_for_each_image_and_each_copy(tmp_path: Path, cache_bytes: int) -> None:
    of = job(
        more='copies = 2\n[[task.transforms]]\nkind = "resize"\n[[task.transforms]]\nkind = "gaussian-noise"\nprobability = 1.0'
    )
    catalogue = Catalogue(tmp_path / "c.sqlite", bytes(range(32)))
    same = {"a": ("well", "well")}
    root = write(tmp_path / "d", same)
    Image.fromarray(np.full((8, 8), 11, np.uint8)).save(root / "images/001.png")  # almost the same as the other
    catalogue.add("visits", "images", root, SourceOptions())
    data = local_data(catalogue, of, make_task(of.task), Memory(cache_bytes)).train
    batch = data.batch(torch.arange(1), Use(b"secret", 1))
    first, second = batch["image"]
    assert len(batch) == 2
    assert not torch.allclose(first[0], first[1], atol=0.02)
    assert not torch.allclose(first[0], second[0], atol=0.02)
    again = data.batch(torch.arange(1), Use(b"secret", 1))
    assert torch.equal(batch["image"], again["image"])
