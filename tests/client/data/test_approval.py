import re
from pathlib import Path

import numpy as np
import pytest
from tests.client.data.dicom.test_text import detector, speckle, ultrasound
from typer.testing import CliRunner

from salus.cli import app
from salus.client.commands.approving import picture_of
from salus.client.config import init_site, open_catalogue
from salus.client.data.approval import SEARCHED, SearchedImages
from salus.client.data.dicom import text
from salus.client.data.dicom.burned_in import Blanked
from salus.common.errors import DataError, UnfitError

ONE, TWO = Blanked(((1, 2, 3, 4),)), Blanked((), outside=True)


def stored(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"image")


def test_images_wait_until_they_are_approved_and_again_when_they_change(tmp_path: Path) -> None:
    stored(tmp_path, "a", "b")
    SearchedImages(tmp_path).put({"a": ONE, "b": TWO})
    again = SearchedImages(tmp_path)
    assert again.pending() == {"a": ONE, "b": TWO}
    before = again.digest()
    again.approve()
    assert SearchedImages(tmp_path).digest() == ""
    later = SearchedImages(tmp_path)
    later.put({"a": ONE})
    assert later.pending() == {}  # the same image once more
    later.put({"b": ONE})
    assert SearchedImages(tmp_path).pending() == {"b": ONE}
    assert later.digest() not in ("", before)


def test_a_truncated_line_approves_nothing_and_loses_no_other(tmp_path: Path) -> None:
    stored(tmp_path, "a", "b")
    SearchedImages(tmp_path).put({"a": ONE})
    with (tmp_path / SEARCHED).open("a") as file:
        file.write('{"approved": "20')
    SearchedImages(tmp_path).put({"b": TWO})
    assert SearchedImages(tmp_path).pending() == {"a": ONE, "b": TWO}


def test_a_deleted_image_waits_no_longer(tmp_path: Path) -> None:
    stored(tmp_path, "b")
    SearchedImages(tmp_path).put({"a": ONE, "b": TWO})
    assert SearchedImages(tmp_path).pending() == {"b": TWO}


def test_the_outline_lies_around_what_was_blanked() -> None:
    import base64
    import io

    from PIL import Image

    url = picture_of(np.zeros((1, 100, 200), np.float32), Blanked(((20, 40, 30, 60),)))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("L")) > 100
    rows, columns = np.nonzero(picture)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == pytest.approx((20, 40, 49, 99), abs=2)


@detector
def test_an_import_is_usable_after_the_operator_has_looked_at_its_pages(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    source.mkdir()
    (source / "one.dcm").write_bytes(ultrasound(speckle("DOE JANE")[None]))
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    init_site(site, "St. Mary")
    arguments = ["dataset", "import", str(site), "us", str(source), "--labels", str(tmp_path / "labels.csv"), "--yes"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    catalogue = open_catalogue(site)
    with pytest.raises(UnfitError, match="not approved"):
        catalogue.approvals.require("us")
    page = (site / "reports" / "text-us-1.html").read_text()
    assert re.findall(r"\.dcm: (\d+) blanked", page) == ["1"]
    assert page.count("data:image/jpeg") == 1
    result = CliRunner().invoke(app, ["dataset", "approve", str(site), "us"])
    assert "Not approved" in result.output
    assert result.exit_code == UnfitError.exit_code != 0
    assert catalogue.approvals.waiting("us")
    assert CliRunner().invoke(app, ["dataset", "approve", str(site), "us", "--yes"]).exit_code == 0
    catalogue.approvals.require("us")
    assert CliRunner().invoke(app, arguments).exit_code == 0  # nothing new
    catalogue.approvals.require("us")
    store = site / "images" / "us"
    (store / "00").mkdir(exist_ok=True)
    stored(store / "00", "late.dcm")
    SearchedImages(store).put({"00/late.dcm": ONE})  # by an import that was killed before it wrote pages
    catalogue.approvals.require("us")
    with pytest.raises(DataError, match="changed since"):
        catalogue.approve("us")


def test_without_the_detector_the_import_refuses_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "installed", lambda: False)
    site, source = tmp_path / "site", tmp_path / "source"
    source.mkdir()
    (source / "one.dcm").write_bytes(ultrasound(speckle("DOE JANE")[None]))
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    init_site(site, "St. Mary")
    arguments = ["dataset", "import", str(site), "us", str(source), "--labels", str(tmp_path / "labels.csv"), "--yes"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "burned-in" in str(result.output) + str(result.exception)
    assert not list((site / "images").rglob("*.dcm"))
