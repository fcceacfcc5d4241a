"""A patient's split is decided once, from its own facts."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import write_npz

from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.split import decide, most_held_out

OPTIONS = SourceOptions()


def catalogue_of(folder: Path, **datasets: list[ImageRecord]) -> Catalogue:
    catalogue = Catalogue(folder / "c.sqlite", b"s" * 16)
    data = write_npz(folder / "toy.npz", images=60)
    for name, records in datasets.items():
        catalogue.add_records(name, "medmnist", data, OPTIONS, records)
    return catalogue


def records(patients: range, split: str = "") -> list[ImageRecord]:
    return [ImageRecord(f"p{n}", "s", f"train/{n}", str(n % 2), split=split) for n in patients]


def test_a_decision_survives_another_fraction_and_a_restart(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, toy=records(range(50)))
    first = catalogue.splits("toy", 0.2)
    assert 0 < list(first.values()).count("val") < 25
    assert catalogue.splits("toy", 0.5) == first
    assert Catalogue(tmp_path / "c.sqlite", b"s" * 16).splits("toy", 0.0) == first


def test_a_patient_in_two_data_sets_has_one_split(tmp_path: Path) -> None:
    shared = records(range(20, 40), split="test")  # here the second data set would hold them out
    catalogue = catalogue_of(tmp_path, one=records(range(40)), two=shared)
    first = catalogue.splits("one", 0.2)
    second = catalogue.splits("two", 0.2)
    assert second == {patient: first[patient] for patient in second}
    assert set(second.values()) <= {"train", "val"}


def test_new_patients_are_decided_when_they_come(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, toy=records(range(30)))
    first = catalogue.splits("toy", 0.0)
    data = tmp_path / "toy.npz"
    catalogue.add_records("toy", "medmnist", data, OPTIONS, records(range(20, 60)), replace=True)
    second = catalogue.splits("toy", 0.5)
    old = set(first) & set(second)
    assert (len(old), {second[patient] for patient in old}) == (10, {"train"})
    assert {second[patient] for patient in set(second) - old} == {"train", "val"}


def test_other_patients_do_not_matter(tmp_path: Path) -> None:
    """Differential privacy needs it: adding a patient with a validation split of its own must not move the others."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = catalogue_of(tmp_path / "a", toy=records(range(30), split="train"))
    more = catalogue_of(tmp_path / "b", toy=records(range(30), split="train"))
    more.add_records(
        "toy", "medmnist", tmp_path / "b" / "toy.npz", OPTIONS,
        [*records(range(30), split="train"), *records(range(30, 31), split="val")], replace=True,
    )  # fmt: skip
    first, second = alone.splits("toy", 0.2), more.splits("toy", 0.2)
    assert {patient: second[patient] for patient in first} == first


def test_the_sources_own_validation_patients_are_kept(tmp_path: Path) -> None:
    mixed = [*records(range(20), split="train"), *records(range(20, 30), split="val")]
    catalogue = catalogue_of(tmp_path, toy=mixed)
    found = catalogue.splits("toy", 0.5)
    assert sorted(found.values()) == ["train"] * 20 + ["val"] * 10
    declared = catalogue.declarations.all()["toy"]
    assert declared is not None
    assert declared.validation == "own"


def test_a_patient_in_several_splits_is_held_out() -> None:
    rows = [
        ("a", "train"),
        ("a", "val"),
        ("b", "test"),
        ("b", "val"),
        ("c", ""),
        ("c", "odd"),
        ("d", ""),
        ("d", "train"),
    ]
    assert most_held_out(rows) == {"a": "val", "b": "test", "c": "", "d": "train"}


@given(st.text(min_size=1, max_size=32), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_larger_fraction_validates_on_more(patient: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert decide(patient, "", low, own=True) == "train" or decide(patient, "", high, own=True) == "val"
