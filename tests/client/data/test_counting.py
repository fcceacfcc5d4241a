"""Every file that is found is used, refused or set aside, by name: nothing vanishes, and nothing of our own is counted."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.client.data.dicom.test_deidentify import image
from tests.client.data.dicom_files import write
from tests.client.data.incoming.test_importing import file_bytes
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.incoming.files import from_folder
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.accompanying import NOT_REFUSED, UNMATCHED
from salus.client.data.sources.base import files_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError

RAMP = np.arange(16, dtype=np.int16).reshape(4, 4)


def dicom(path: Path) -> None:
    write(path, RAMP, PatientID="P1", SeriesInstanceUID=f"1.2.{len(path.name)}")


def no_series(path: Path) -> None:
    write(path, RAMP, PatientID="P1", SeriesInstanceUID="")


def picture(path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).save(path, "PNG")


def volume(path: Path) -> None:
    data = nibabel.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)).to_bytes()
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith("gz") else data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("words")


def link(path: Path) -> None:
    path.symlink_to("a.dcm")


def pipe(path: Path) -> None:
    os.mkfifo(path)


NAMES: dict[str, Callable[[Path], None]] = {
    "a.dcm": dicom,
    "b": dicom,
    "n.dcm": no_series,
    "c.png": picture,
    "d.PNG": picture,
    "e.nii": volume,
    "f.nii.gz": volume,
    "g.NII.GZ": volume,
    "h.img": empty,
    "h.hdr": text,
    "i.dcm": empty,
    "j.png": text,
    "README.md": text,
    "DICOMDIR": text,
    "Thumbs.db": text,
    ".hidden": text,
    "._a.dcm": text,
    "k.zip": text,
    "l.dcm": link,
    "m.dcm": pipe,
    "labels/e.nii": volume,
    "images/e.nii": volume,
    "Annotations/c.xml": text,
    "o.json": text,
    "p.sqlite": text,
}


@settings(max_examples=40)
@given(
    st.sets(st.sampled_from(sorted(NAMES)), min_size=1),
    st.sets(st.sampled_from(["", "x/", "x/y/"]), min_size=1),
    st.sampled_from(["dicom", "volumes", "images", "nifti"]),
)
def test_what_is_found_is_used_refused_or_set_aside(names: set[str], places: set[str], kind: str) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in {place + name for place in places for name in names}:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            NAMES[name.removeprefix("x/").removeprefix("y/")](root / name)
        there = {
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()
        }
        rows = "".join(f",{name},1\n" for name in sorted(there))
        (root / "labels.csv").write_text("PatientID,file,label\nP1,,1\n" + rows)
        there.add("labels.csv")
        source = open_source(kind.replace("volumes", "dicom"), root, SourceOptions.asked(volumes=kind == "volumes"))
        found = list(source.everything())
        used = [name for item in found if isinstance(item, ImageRecord) for name in files_of(item.key)]
        unused = [item.key for item in found if isinstance(item, Quarantined) and item.reason != UNMATCHED]
        assert {*used, *unused} == there
        assert len(unused) == len(set(unused))
        assert not set(used) & set(unused)
        rest = {item.key for item in found if isinstance(item, Quarantined) and item.reason in NOT_REFUSED}
        assert "labels.csv" in rest
        assert [item for item in source.scan() if item not in found] == []


def test_the_files_of_a_store_itself_are_not_counted_and_every_other_file_is(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    (data / "a.dcm").write_bytes(file_bytes(image(PatientID="P1")))
    (data / "labels.csv").write_text("PatientID,label\nP1,a\n")
    arguments = ["dataset", "import", str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    summary = open_catalogue(site).summary("x")
    assert (summary.images, summary.quarantined, summary.set_aside) == (1, {}, 0)
    (site / "images" / "x" / "stray.dcm").write_bytes(b"not an image")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert open_catalogue(site).summary("x").quarantined == {"not-dicom": 1}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    picture(tmp_path / "c.png")
    (tmp_path / "labels.csv").write_text("file,label\nc.png,1\n")
    real = os.scandir

    def scandir(path: Path) -> object:
        if path == tmp_path / "x":
            raise PermissionError
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(open_source("images", tmp_path, SourceOptions()).everything())
    assert [(item.key, item.reason) for item in found if isinstance(item, Quarantined)] == [
        ("x/", "unreadable"), ("labels.csv", "set-aside"),
    ]  # fmt: skip


def test_what_is_set_aside_is_shown_and_is_no_unused_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("c.png", "h.img"):
        NAMES[name](data / name)
    for name in ("README.md", "labels.csv"):
        (data / name).write_text("file,label\nc.png,1\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    summary = catalogue.add("n", "images", data, SourceOptions())
    assert (summary.images, summary.quarantined, summary.set_aside) == (1, {"other-kind": 1}, 2)
    assert json.dumps(summary.quarantined) == '{"other-kind": 1}'


@settings(max_examples=25)
@given(st.sets(st.sampled_from(sorted(NAMES)), min_size=1), st.sets(st.sampled_from(["", "x/", "x/y/"]), min_size=1))
def test_an_import_yields_or_counts_every_file_of_a_folder(names: set[str], places: set[str]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in {place + name for place in places for name in names}:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            NAMES[name.removeprefix("x/").removeprefix("y/")](root / name)
        there = {
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()
        }
        left_out: Counter[str] = Counter()
        yielded = [item.name for item in from_folder(root, left_out)]
        assert set(yielded) <= there
        assert len(yielded) == len(set(yielded))
        assert len(yielded) + left_out.total() == len(there)


def test_an_error_counts_only_files_that_could_not_be_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "broken.dcm").write_bytes(b"not an image")
    (data / "labels.csv").write_text("file,label\nbroken.dcm,1\nnobody.dcm,1\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    with pytest.raises(DataError, match="files not used: 1 not-dicom"):
        catalogue.add("x", "dicom", data, SourceOptions())
