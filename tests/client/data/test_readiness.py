import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.client.data.dicom_files import write

from salus.client.commands.dataset import check as check_command
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.readiness import check
from salus.client.data.readiness_page import _table, sections_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError
from salus.common.pages import Section, write_page

PICTURES = np.random.default_rng(0).integers(0, 3000, (12, 9, 11), dtype=np.uint16)


def dicom_folder(folder: Path) -> Path:
    """Write ten patients; the last two images are copies, one of the same patient and one of another."""
    folder.mkdir(parents=True)
    rows = ["PatientID,label"]
    for n in range(10):
        rows.append(f"P{n},{'sick' if n < 2 else 'well'}")
        vendor = ("GE Medical", "SIEMENS", "Acme <b>Imaging</b>")[n % 3]
        write(folder / f"{n}.dcm", PICTURES[n], PatientID=f"P{n}", Manufacturer=vendor, Modality="CT")
    write(folder / "copy1.dcm", PICTURES[0], PatientID="P0", Manufacturer="GE", Modality="CT", InstanceNumber=2)
    write(folder / "copy2.dcm", PICTURES[0], PatientID="P5", Manufacturer="GE", Modality="CT", InstanceNumber=3)
    (folder / "bad.dcm").write_bytes(b"x" * 500)
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_everything_that_somebody_should_look_at_is_found(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    folder = dicom_folder(tmp_path / "d")
    catalogue.add("ct", "dicom", folder, SourceOptions())
    (folder / "7.dcm").unlink()
    (folder / "8.dcm").write_bytes((folder / "9.dcm").read_bytes())
    found = check(catalogue, "ct")
    assert (found.copies_within, found.copies_across) == (1, 1)
    assert found.patients_by_label == {"sick": 2, "well": 8}
    assert found.vendors == {"GE": 6, "SIEMENS": 3, "OTHER": 3}
    assert found.sizes == {"9 x 11": 12}
    assert found.ranges["CT"] == (float(PICTURES[:10].min()), float(PICTURES[:10].max()))
    assert sorted(found.unreadable) == [("7.dcm", "missing"), ("8.dcm", "changed")]
    assert sum(found.intensities) == 10
    text = " ".join(found.warnings)
    for expected in (
        "2 registered samples",
        "1 images have the pixels of an image of another",
        "sick",
        "1 files could",
    ):
        assert expected in text
    plain = json.dumps(found.to_json())
    assert "dcm" not in plain
    assert "data:image" not in plain


def test_the_page_shows_pictures_fetches_nothing_and_escapes_what_files_say(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    catalogue = open_catalogue(site)
    catalogue.add("ct", "dicom", dicom_folder(tmp_path / "d"), SourceOptions())
    check_command(site, "ct")
    path = site / "reports" / "ct.html"
    assert path.stat().st_mode & 0o777 == 0o600
    page = path.read_text()
    assert page.count("data:image/png;base64,") == 12
    assert page.count("To look at") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    text = re.sub(r"data:image/png;base64,[^\"]*", "", page)
    for name in ("P0", "P5", str(tmp_path), "Acme", "dcm"):
        assert name not in text
    write_page(tmp_path / "x.html", "<script>", "&", [Section("<i>", "<b>", rows=[("<u>", 1)], code="<pre>")])
    hostile = (tmp_path / "x.html").read_text()
    for tag in ("<script>", "<i>", "<b>", "<u>"):
        assert tag not in hostile


def test_a_table_shows_its_missing_values_and_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,sex,label\n50,?,0\n?,1,1\n60,?,0\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("t", "table", tmp_path / "t.csv", SourceOptions())
    found = check(catalogue, "t")
    assert found.missing == {"sex": 2, "age": 1}
    assert any(section.title == "Missing values" for section in sections_of(found))
    site = tmp_path / "site"
    init_site(site, "S")
    (tmp_path / "p").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "p" / "a.png")
    (tmp_path / "p" / "labels.csv").write_text("file,label\na.png,x\n")
    open_catalogue(site).add("p", "images", tmp_path / "p", SourceOptions())
    (tmp_path / "p" / "a.png").unlink()
    with pytest.raises(DataError, match="1 registered samples"):
        check_command(site, "p")


def test_a_table_that_is_cut_says_how_many_are_not_shown() -> None:
    counts = Counter({f"{side} x 8": side for side in range(1, 21)})
    (section,) = _table("Sizes in pixels", counts)
    assert len(section.rows) == 13
    assert section.rows[-1] == ("others", sum(range(1, 9)))
    assert sum(int(str(row[1])) for row in section.rows) == counts.total()
    (whole,) = _table("Vendors", Counter({"A": 3}))
    assert list(whole.rows) == [("A", 3)]
