import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.builders import write_npz
from tests.client.data.dicom_files import write

from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

RAMP = np.arange(16, dtype=np.uint16).reshape(4, 4)


def scan(kind: str, root: Path, **options: object) -> tuple[list[ImageRecord], list[Quarantined]]:
    found = list(open_source(kind, root, SourceOptions(**options)).scan())  # type: ignore[arg-type]
    return [f for f in found if isinstance(f, ImageRecord)], [f for f in found if isinstance(f, Quarantined)]


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        ("PatientID", {"A": "P1", "B": "P2"}),
        ("StudyInstanceUID", {"A": "1.1", "B": "1.2"}),
        ("file", {"A": "a.dcm", "B": "sub/b.dcm"}),
    ],
)
def test_dicom_labels_by_patient_study_or_file(tmp_path: Path, header: str, keys: dict[str, str]) -> None:
    write(tmp_path / "a.dcm", RAMP, PatientID="P1", StudyInstanceUID="1.1")
    write(tmp_path / "sub" / "b.dcm", RAMP, PatientID="P2", StudyInstanceUID="1.2")
    (tmp_path / "labels.csv").write_text(f"\ufeff{header},label\n" + "\n".join(f"{k},{n}" for n, k in keys.items()))
    good, bad = scan("dicom", tmp_path)
    assert [(r.key, r.label) for r in good] == [("a.dcm", "A"), ("sub/b.dcm", "B")]
    assert bad == []


def test_a_folder_with_bad_files_yields_the_good_ones_and_lists_the_rest(tmp_path: Path) -> None:
    good = write(tmp_path / "good.dcm", RAMP)
    (tmp_path / "cut.dcm").write_bytes(good.read_bytes()[:-10])
    (tmp_path / "garbage.dcm").write_bytes(b"\x01" * 500)
    write(tmp_path / "stranger.dcm", RAMP, PatientID="P9")
    write(tmp_path / "nobody.dcm", RAMP, PatientID="", StudyInstanceUID="9.9")
    (tmp_path / "link.dcm").symlink_to(good)
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,yes\n")
    found, bad = scan("dicom", tmp_path)
    assert [r.key for r in found] == ["good.dcm"]
    assert {b.key: b.reason for b in bad} == {
        "cut.dcm": "damaged",
        "garbage.dcm": "not-dicom",
        "stranger.dcm": "unlabelled",
        "nobody.dcm": "unlabelled",
        "link.dcm": "link",
    }


def test_series_become_volumes(tmp_path: Path) -> None:
    for z in range(3):
        write(tmp_path / f"{z}.dcm", RAMP, ImagePositionPatient=[0, 0, z], PixelSpacing=[1, 1], SeriesInstanceUID="7.1",
              ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # fmt: skip
    write(tmp_path / "x.dcm", RAMP, SeriesInstanceUID="7.2", ImagePositionPatient=[0, 0, 0])
    write(tmp_path / "y.dcm", RAMP, SeriesInstanceUID="7.2", ImagePositionPatient=[0, 0, 0])
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,yes\n")
    good, bad = scan("dicom", tmp_path, volumes=True)
    assert len(good) == 1
    assert sorted(b.key for b in bad) == ["x.dcm", "y.dcm"]
    sample = open_source("dicom", tmp_path, SourceOptions(volumes=True)).load(good[0].key)
    assert sample.values.shape == (1, 3, 4, 4)
    assert sample.spacing_mm == (1.0, 1.0, 1.0)


def test_label_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", RAMP)
    with pytest.raises(DataError, match="labels.csv"):
        open_source("dicom", tmp_path, SourceOptions())
    (tmp_path / "labels.csv").write_text("who,what\n")
    with pytest.raises(DataError, match="column 'label' in the label file"):
        open_source("dicom", tmp_path, SourceOptions())
    (tmp_path / "labels.csv").write_text("who,label\n")
    with pytest.raises(DataError, match="one of the columns file, .*StudyInstanceUID, .*PatientID"):
        open_source("dicom", tmp_path, SourceOptions())
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,a\nP1,b\n")
    with pytest.raises(DataError, match="Two different labels"):
        open_source("dicom", tmp_path, SourceOptions())


def test_image_folder(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    (tmp_path / "labels.csv").write_text(
        "file,PatientID,label\ngrey.png,1,a\ncolour.png,1,a\ndeep.png,2,b\nbroken.png,3,b\n"
    )
    good, bad = scan("images", tmp_path)
    source = open_source("images", tmp_path, SourceOptions())
    shapes = {r.key: source.load(r.key).values.shape for r in good}
    assert shapes == {"grey.png": (1, 3, 4), "colour.png": (3, 3, 4), "deep.png": (1, 3, 4)}
    assert source.load("grey.png").values.max() == source.load("deep.png").values.max() == 1.0
    assert [(b.key, b.reason) for b in bad] == [("broken.png", "damaged")]
    assert good[0].patient == good[1].patient or {g.patient for g in good} == {"1", "2"}


def test_medmnist_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "toy.npz")
    good, bad = scan("medmnist", path)
    assert (len(good), len(bad)) == (80, 0)
    assert {r.split for r in good} == {"train", "val", "test"}
    np.savez(tmp_path / "evil.npz", train_images=np.array([{"a": 1}], dtype=object), train_labels=np.zeros(1))
    with pytest.raises(DataError, match="MedMNIST"):
        open_source("medmnist", tmp_path / "evil.npz", SourceOptions())
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(DataError, match="MedMNIST"):
        open_source("medmnist", tmp_path / "text.npz", SourceOptions())


def test_tables_with_and_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,sex,label\n50,1,0\n?,0,1\nold,0,1\n5_0,0,1\n60,1,\n")
    good, bad = scan("table", tmp_path / "a.csv")
    assert [r.label for r in good] == ["0", "1"]
    assert [b.reason for b in bad] == ["not-a-number", "not-a-number", "unlabelled"]
    source = open_source("table", tmp_path / "a.csv", SourceOptions())
    assert source.load(good[0].key).values.tolist() == [50.0, 1.0]
    assert np.isnan(source.load(good[1].key).values[0])
    (tmp_path / "b.data").write_text("63,1,2\n41,0,0\n")
    good, _ = scan("table", tmp_path / "b.data", columns=("age", "sex", "num"), label_column="num", positive_above=0)
    assert [r.label for r in good] == ["1", "0"]
    assert {r.group for r in good} == {"b.data"}
    with pytest.raises(DataError, match="column 'label'"):
        open_source("table", tmp_path / "b.data", SourceOptions())


def test_kinds_are_guessed_and_missing_things_are_named(tmp_path: Path) -> None:
    assert guess_kind(write_npz(tmp_path / "toy.npz")) == "medmnist"
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "a.dcm", RAMP)
    assert guess_kind(tmp_path / "d") == "dicom"
    with pytest.raises(DataError, match="nothing"):
        open_source("dicom", tmp_path / "absent", SourceOptions())
    with pytest.raises(DataError, match="dicom, images, imported, medmnist, nifti, table"):
        open_source("floppy", tmp_path, SourceOptions())


def test_a_sample_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    source = open_source("medmnist", write_npz(tmp_path / "toy.npz"), SourceOptions())
    for key in ("train/99999", "other/1", "x"):
        with pytest.raises(UnreadableImage):
            source.load(key)


def test_pictures_are_scaled_by_their_own_mode(tmp_path: Path) -> None:
    Image.new("1", (4, 4), 1).save(tmp_path / "bits.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.new("LA", (4, 4), (255, 0)).save(tmp_path / "alpha.png")
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "gif.png", format="GIF")
    names = ["bits.png", "float.tif", "alpha.png", "pages.tif", "gif.png"]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name},a\n" for name in names))
    good, bad = scan("images", tmp_path)
    source = open_source("images", tmp_path, SourceOptions())
    assert {r.key: float(source.load(r.key).values.max()) for r in good} == {"bits.png": 1.0, "alpha.png": 1.0}
    assert all(source.load(r.key).values.shape == (1, 4, 4) for r in good)
    assert {b.key: b.reason for b in bad} == {
        "float.tif": "unsupported",
        "pages.tif": "several-pictures",
        "gif.png": "damaged",
    }


def test_slices_of_two_patients_never_make_one_volume(tmp_path: Path) -> None:
    for z in range(4):
        write(
            tmp_path / f"{z}.dcm", RAMP, PatientID=f"P{z // 2}", SeriesInstanceUID="7.1", ImagePositionPatient=[0, 0, z]
        )
    write(tmp_path / "none.dcm", RAMP, SeriesInstanceUID=None)
    (tmp_path / "labels.csv").write_text("PatientID,label\nP0,yes\nP1,no\n")
    good, bad = scan("dicom", tmp_path, volumes=True)
    assert sorted((r.patient, r.label) for r in good) == [("P0", "yes"), ("P1", "no")]
    assert [b.reason for b in bad] == ["no-series"]


def test_a_file_name_that_is_not_text_is_quarantined(tmp_path: Path) -> None:
    write(tmp_path / "good.dcm", RAMP)
    (Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/M\xfcller.dcm"))).write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,yes\n")
    good, bad = scan("dicom", tmp_path)
    assert len(good) == 1
    assert [b.reason for b in bad] == ["bad-name"]
    bad[0].key.encode()


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY\x01\0"])
def test_archives_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError):
        list(open_source("medmnist", tmp_path / "x.npz", SourceOptions()).scan())


def test_odd_lines_and_numbers_of_a_table_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,label\n1,a\n1\n1,2,a\n1e39,a\ninf,a\n")
    good, bad = scan("table", tmp_path / "a.csv")
    assert len(good) == 1
    assert sorted(b.reason for b in bad) == ["not-finite", "not-finite", "ragged", "ragged"]
    (tmp_path / "b.csv").write_text("age,age,label\n1,2,a\n")
    with pytest.raises(DataError, match="same name"):
        open_source("table", tmp_path / "b.csv", SourceOptions())


def test_the_kind_is_guessed_from_most_files_and_not_from_those_that_accompany_data(tmp_path: Path) -> None:
    for name in (
        "SHA256SUMS",
        "LICENSE",
        "README",
        "dataset.json",
        "images/a.nii.gz",
        "labels/a.nii.gz",
        "overview.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert guess_kind(tmp_path) == "nifti"
    for number in range(3):
        (tmp_path / f"IM{number}").touch()
    assert guess_kind(tmp_path) == "dicom"


def test_sex_and_age_come_from_columns_that_the_operator_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) + ord(name)).save(tmp_path / f"{name}.png")
    rows = ["file,PatientID,label,gender,years", "a.png,P1,0,male,93", "b.png,P2,1,F,45.5", "c.png,P3,1,1,unknown"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    def people(**options: str) -> list[tuple[object, object]]:
        found, _ = scan("images", tmp_path, **options)
        return [(record.info.get("sex"), record.info.get("age_years")) for record in found]

    assert people() == [(None, None)] * 3
    assert people(sex_column="gender", age_column="years") == [("M", 90), ("F", 45), (None, None)]
    with pytest.raises(DataError, match="gendre"):
        scan("images", tmp_path, sex_column="gendre")
    table = tmp_path / "table.csv"
    table.write_text("pid,sex,age,label\np,F,30,1\n")
    found, _ = scan("table", table, sex_column="sex", age_column="age", columns=("age", "label"))
    assert (found[0].info["sex"], found[0].info["age_years"]) == ("F", 30)


def test_two_ages_of_one_patient_in_a_label_file_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("PatientID,label,age\nP1,0,45\nP1,0,54\n")
    write(tmp_path / "a.dcm", np.arange(16, dtype=np.uint16).reshape(4, 4))
    with pytest.raises(DataError, match="Two different ages"):
        scan("dicom", tmp_path, age_column="age")
