"""From data to a declaration: what is proposed, what stays at the site, and what an operator may change."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.builders import toy_catalogue, write_npz
from tests.client.data.dicom_files import write

from salus.client.commands.declaring import Edits, remarks, units
from salus.client.data.catalogue import Catalogue
from salus.client.data.declaration import differences, propose
from salus.client.data.records import ImageFacts, ImageRecord, Sample
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import ConfigError, DataError


def facts(labels: Iterable[str], **info: object) -> list[ImageFacts]:
    known = {"rows": 4, "columns": 4, "channels": 1, **info}
    return [ImageFacts(f"p{number}", label, "", known) for number, label in enumerate(labels)]


def never() -> Sample:
    raise AssertionError("an image was read")


def test_a_label_that_few_patients_have_is_not_proposed_and_is_shown() -> None:
    found = propose(facts(["a"] * 9 + ["b"] * 5 + ["typo"] * 4), never, 18)
    assert found.declaration.classes == ("a", "b")
    assert found.declaration.min_patients == 10
    (line,) = [line for line in remarks(found.declaration, found) if "not declared" in line]
    assert "4 images" in line
    assert "'typo' (4)" in line


def test_numbers_are_labels_of_the_declared_classes_by_their_place_and_the_operator_is_told_so() -> None:
    found = propose(facts(["0"] * 9 + ["1"] * 5 + ["2"] * 5), never, 19)
    named = found.declaration.model_copy(update={"classes": ("normal", "pneumonia")})
    lines = remarks(named, found)
    assert any("labels are numbers" in line and "--classes" in line for line in lines)
    (line,) = [line for line in lines if "not declared" in line]
    assert "'2' (5)" in line
    assert "'0'" not in line
    words = propose(facts(["a"] * 9), never, 9)
    assert not any("numbers" in line for line in remarks(words.declaration, words))


def test_many_images_of_one_patient_make_no_class() -> None:
    rows = [ImageFacts("p", "rare", "", {"rows": 4, "channels": 1})] * 50
    assert propose([*rows, *facts(["a"] * 9)], never, 10).declaration.classes == ("a",)


def test_measurements_are_no_classes() -> None:
    found = propose(facts([f"{n / 7:.3f}" for n in range(40)] + ["0.000"] * 10), never, 50).declaration
    assert (found.annotations, found.classes) == (("measurement",), ())


@pytest.mark.parametrize(
    ("info", "dimensions", "channels"),
    [({}, (2,), (1,)), ({"slices": 3}, (3,), (1,)), ({"frames": 7}, (3,), (1,)), ({"channels": 3}, (2,), (3,))],
)
def test_dimensions_and_channels(
    info: dict[str, object], dimensions: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    found = propose(facts(["a"] * 9, **info), never, 9).declaration
    assert (found.dimensions, found.channels) == (dimensions, channels)


def test_what_the_catalogue_does_not_know_is_read_from_one_image() -> None:
    rows = [ImageFacts(f"p{n}", "a", "", {}) for n in range(6)]
    volume = propose(rows, lambda: Sample(np.zeros((1, 2, 3, 4), np.float32)), 6).declaration
    assert (volume.kind, volume.dimensions, volume.channels) == ("images", (3,), (1,))
    table = propose(rows, lambda: Sample(np.zeros(2, np.float32), columns=("age", "sex")), 6).declaration
    assert (table.kind, [column.name for column in table.columns], table.dimensions) == ("table", ["age", "sex"], ())


def test_dicom_declares_modality_and_spacing_and_identified_patients(tmp_path: Path) -> None:
    for n in range(6):
        write(
            tmp_path / f"{n}.dcm",
            np.full((4, 4), n, np.uint16),
            PatientID=f"P{n}",
            Modality="CT",
            PixelSpacing=[0.7, 0.7],
        )
    (tmp_path / "labels.csv").write_text("PatientID,label\n" + "".join(f"P{n},sick\n" for n in range(6)))
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("ct", "dicom", tmp_path, SourceOptions())
    declared = catalogue.declarations.all()["ct"]
    assert declared is not None
    assert (declared.modalities, declared.spacing, declared.patient_ids) == (("CT",), "0.5 to 1 mm", True)


def test_what_an_operator_may_change(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n" + "".join(f"{n},{n % 2}\n" for n in range(30)))
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("t", "table", tmp_path / "t.csv", SourceOptions())
    found = catalogue.propose("t")
    changed = Edits(("0", "1", "2"), 7, units("age = years"), ()).of(found.declaration, found.patients)
    assert changed.classes == ("0", "1", "2")
    assert (changed.min_patients, changed.columns[0].unit) == (7, "years")
    catalogue.declarations.put("t", changed)
    assert catalogue.declarations.all() == {"t": changed}
    for edits in (Edits(min_patients=31), Edits(units={"agee": "years"}), Edits(classes=("\x1b",))):
        with pytest.raises(DataError):
            edits.of(found.declaration, found.patients)
    with pytest.raises(ConfigError):
        units("age")
    assert differences(changed.model_copy(update={"min_patients": 31}), found)


def test_data_registered_anew_keep_what_was_declared(tmp_path: Path) -> None:
    catalogue = toy_catalogue(tmp_path)
    declared = catalogue.declarations.all()["toy"]
    assert declared is not None
    mine = declared.model_copy(update={"min_patients": 3})
    catalogue.declarations.put("toy", mine)
    again = [item for item in catalogue.source("toy").scan() if isinstance(item, ImageRecord)]
    catalogue.add_records("toy", "medmnist", tmp_path / "toy.npz", SourceOptions(), again, replace=True)
    assert catalogue.declarations.all()["toy"] == mine
    catalogue.add_records("mine", "medmnist", tmp_path / "toy.npz", SourceOptions(), again, declare=False)
    assert catalogue.declarations.all()["mine"] is None


@pytest.mark.parametrize("name", ["../../etc", "", "A", "a b", "a/b", "-a", "a" * 64, "a_b", ".", "a\n"])
def test_names_follow_the_rule_of_names(tmp_path: Path, name: str) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    npz = write_npz(tmp_path / "toy.npz")
    with pytest.raises(DataError, match="lower-case letters"):
        catalogue.add(name, "medmnist", npz, SourceOptions())
    with pytest.raises(DataError, match="lower-case letters"):
        catalogue.add_records(name, "medmnist", npz, SourceOptions(), [ImageRecord("p", "s", "k", "0")])


def pictures(folder: Path, header: str = "file,label", extra: str = "") -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [header]
    for n in range(12):
        Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).save(folder / f"{n}.png")
        rows.append(f"{n}.png,{n % 2}" + extra.format(n // 2))
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("column", ["patients", "subject", "MRN", "PatNr", "case_id"])
def test_a_column_of_patients_under_another_name_is_an_error_that_names_it(tmp_path: Path, column: str) -> None:
    folder = pictures(tmp_path / "p", f"file,label,{column}", ",x{}")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    with pytest.raises(DataError, match=f"12 patients for 12 images: is '{column}' the patient column"):
        catalogue.add("p", "images", folder, SourceOptions())
    assert catalogue.add("p", "images", folder, SourceOptions(patient_column=column)).patients == 6
    with pytest.raises(
        DataError, match=r"'lable' in the label file 'labels\.csv' \(did you mean 'label'\?\)\. Name the"
    ):
        catalogue.add("q", "images", folder, SourceOptions(label_column="lable", patient_column=column))
    with pytest.raises(DataError, match="'nobody'"):
        catalogue.add("q", "images", folder, SourceOptions(patient_column="nobody"))


@pytest.mark.parametrize("column", ["patient", "patient_id", "Patient-ID", "PATIENTID", "subject_id", "Participant ID"])
def test_the_usual_names_of_the_column_of_patients_are_taken(tmp_path: Path, column: str) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    folder = pictures(tmp_path / "p", f"file,label,{column}", ",x{}")
    assert catalogue.add("p", "images", folder, SourceOptions()).patients == 6


def test_two_columns_that_may_be_the_patients_are_a_question(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    folder = pictures(tmp_path / "p", "file,label,patient,subject_id", ",x{0},y")
    with pytest.raises(DataError, match="is 'patient' the patient column"):
        catalogue.add("p", "images", folder, SourceOptions())


@pytest.mark.parametrize("column", ["sex", "age", "patient_age", "path", "case", "site"])
def test_other_columns_are_left_alone(tmp_path: Path, column: str) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    folder = pictures(tmp_path / "p", f"file,label,{column}", ",{}")
    assert catalogue.add("p", "images", folder, SourceOptions()).patients == 12


def test_a_table_with_a_column_of_patients_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("subject,age,label\n" + "".join(f"{n // 3},{n},{n % 2}\n" for n in range(30)))
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    with pytest.raises(DataError, match="is 'subject' the patient column"):
        catalogue.add("t", "table", tmp_path / "t.csv", SourceOptions())
    assert catalogue.add("t", "table", tmp_path / "t.csv", SourceOptions(patient_column="subject")).patients == 10
    assert [column.name for column in catalogue.propose("t").declaration.columns] == ["age"]


def test_a_copied_folder_is_the_same_patients_so_budgets_do_not_multiply(tmp_path: Path) -> None:
    """F4: without identifiers a patient was its path, and each copy of a folder had a whole budget of its own."""
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    folder = pictures(tmp_path / "p")
    catalogue.add("one", "images", folder, SourceOptions())
    folder.rename(tmp_path / "elsewhere")
    pictures(tmp_path / "p" / "deeper")
    (tmp_path / "p" / "deeper" / "labels.csv").rename(tmp_path / "p" / "labels.csv")
    catalogue.add("two", "images", tmp_path / "p", SourceOptions())
    assert catalogue.patients("one") == catalogue.patients("two")
    assert len(catalogue.patients("one")) == 12
    npz = write_npz(tmp_path / "toy.npz")
    with np.load(npz) as arrays:
        turned = {name: arrays[name][::-1] for name in arrays.files}
    np.savez(tmp_path / "turned.npz", **turned)
    for name in ("toy", "turned"):
        catalogue.add(name, "medmnist", tmp_path / f"{name}.npz", SourceOptions())
    assert catalogue.patients("toy") == catalogue.patients("turned")
    for name, rows in (("t", ("1,0", "2,1")), ("u", ("2,1", "1,0"))):
        (tmp_path / f"{name}.csv").write_text("\n".join(("age,label", *rows)))
        catalogue.add(name, "table", tmp_path / f"{name}.csv", SourceOptions())
    assert catalogue.patients("t") == catalogue.patients("u")
    declared = catalogue.declarations.all()["toy"]
    assert declared is not None
    assert not declared.patient_ids
