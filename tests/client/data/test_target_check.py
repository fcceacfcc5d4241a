"""What `salus dataset check` says and shows of annotations."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.client.data.test_boxes import COLUMNS, ROWS, picture, voc
from tests.client.data.test_nifti_folder import VALUES, write
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.readiness import Readiness, Thumbnail, check
from salus.client.data.readiness_page import sections_of
from salus.client.data.records import Sample
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.summaries import DatasetSummary
from salus.client.data.target_check import pictured, structures_of
from salus.client.outgoing.overlays import COLOURS
from salus.common.pages import Section

SUMMARY = DatasetSummary("x", "images", "", 1, 1, 1, {}, {}, 0)


def masks_folder(folder: Path) -> None:
    """Write volumes whose masks are good, empty, cut off at the edge of the image, and absent."""
    good = np.zeros(VALUES.shape, np.uint8)
    good[1, 1:3, :2] = 1
    shifted = nibabel.affines.from_matvec(np.diag([1.0, 2.0, 3.0]), [2.0, 0.0, 0.0])
    masks = {"good": good, "empty": 0 * good, "cut": nibabel.Nifti1Image(np.ones(VALUES.shape, np.uint8), shifted)}
    for number, name in enumerate(("good", "empty", "cut", "alone")):
        write(folder / "images" / f"{name}.nii", VALUES + np.int16(number))
    (folder / "labels").mkdir()
    for name, mask in masks.items():
        image = mask if isinstance(mask, nibabel.Nifti1Image) else None
        if image is None:
            write(folder / "labels" / f"{name}.nii", mask)
        else:
            nibabel.save(image, folder / "labels" / f"{name}.nii")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{name}.nii,x\n" for name in (*masks, "alone")))


def test_masks_are_counted_measured_and_those_that_do_not_fit_are_named(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    masks_folder(data)
    init_site(site, "S")
    catalogue = open_catalogue(site)
    catalogue.add("x", "nifti", data, SourceOptions(structures=("lesion",)))
    found = check(catalogue, "x")
    target = found.targets["mask"]
    assert (target.images, target.lacking, target.empty, target.cut) == (3, 1, 1, 1)
    assert target.rows() == [("lesion", 2, "0.024", "0.192", "0.36")]
    assert [(outside, json.loads(key)[0]) for outside, key in target.worst] == [(0.5, "images/cut.nii")]
    text = " ".join(found.warnings)
    for part in ("1 images have no mask", "1 annotations 'mask' are empty", "one with 50% of its volume"):
        assert part in text
    titles = [section.title for section in sections_of(found)]
    assert "Annotation 'mask': ml in each image" in titles
    assert ("reaches beyond the image", "data:image/png;base64,") in [
        (one.caption, one.picture[:22]) for one in found.thumbnails
    ]
    assert next(s.text for s in sections_of(found) if s.title == "Sample images").endswith("Colours: lesion orange.")
    assert ".nii" not in json.dumps(found.to_json())
    result = CliRunner().invoke(app, ["dataset", "check", str(site), "x"])
    assert result.exit_code == 0, result.output
    assert "50% outside the image" in result.output
    assert "images/cut.nii" in result.output
    result = CliRunner().invoke(app, ["dataset", "show", str(site), "x"])
    assert result.exit_code == 0, result.output
    for part in ("mask: lesion", "mask: empty", "mask: reaches beyond the image"):
        assert part in result.output


def colours_of(url: str) -> np.ndarray:
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_pictures_show_masks_and_boxes_where_they_are(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc(("cell", 16, 1, 30, 20)))  # the right half
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("x", "images", tmp_path, SourceOptions())
    sample = catalogue.source("x").load(catalogue.images("x")[0].key)
    pixels = colours_of(pictured(sample))
    near = np.abs(pixels - np.array(COLOURS[0])).sum(axis=-1) < 60
    columns = np.flatnonzero(near.sum(axis=0) > near.shape[0] / 2) * COLUMNS / near.shape[1]
    assert columns.min() == pytest.approx(15, abs=1.2)
    assert not near[:, : int(near.shape[1] * 0.4)].any()
    assert check(catalogue, "x").targets["boxes"].amounts == {"cell": [1.0]}
    assert ROWS < COLUMNS < pixels.shape[1]


def test_a_page_names_the_colour_of_each_structure_once_or_below_each_picture() -> None:
    def samples(*structures: dict[int, str]) -> Section:
        found = Readiness(SUMMARY, thumbnails=[Thumbnail("x", "data:", one) for one in structures])
        return next(section for section in sections_of(found) if section.pictures)

    same = samples({1: "liver"}, {}, {2: "tumour"})
    assert same.text == "They exist only in this file. Colours: liver orange, tumour sky blue."
    assert [caption for caption, _ in same.pictures] == ["x", "x", "x"]
    other = samples({1: "liver", 2: "tumour"}, {1: "tumour"}, {})
    assert other.text == "They exist only in this file."
    assert [caption for caption, _ in other.pictures] == [
        "x Colours: liver orange, tumour sky blue.", "x Colours: tumour orange.", "x",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["mask", "layers", "boxes", "contours"])
def test_structures_are_named_by_the_numbers_that_are_drawn(kind: str) -> None:
    values = {
        "mask": np.array([[0, 3], [1, 0]], np.uint8), "layers": np.zeros((2, 2, 2), np.uint8),
        "boxes": np.array([[0, 0, 1, 1, 3], [0, 0, 1, 1, 1]], np.float32),
        "contours": np.array([[0, 3, 0, 0], [1, 1, 1, 1]], np.float32),
    }[kind]  # fmt: skip
    word: Any = "mask" if kind == "layers" else kind
    sample = Sample(np.zeros((1, 2, 2), np.float32), targets={"a": values}, kinds={"a": word})
    assert structures_of(sample) == ({1: "1", 2: "2"} if kind == "layers" else {1: "1", 3: "3"})
    named = replace(sample, names={"a": ("liver", "spleen", "tumour")})
    assert structures_of(named) == {1: "liver", 2: "spleen", 3: "tumour"}
    assert structures_of(replace(sample, targets={})) == {}


def test_measured_labels_are_one_row_and_no_warning(tmp_path: Path) -> None:
    for number in range(25):
        mask = np.zeros(VALUES.shape, np.uint8)
        mask.reshape(-1)[: number + 1] = 1
        write(tmp_path / "images" / f"{number:02d}.nii", VALUES + np.int16(number))
        write(tmp_path / "labels" / f"{number:02d}.nii", mask)
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("x", "nifti", tmp_path, SourceOptions())
    found = check(catalogue, "x")
    (labels,) = (section for section in sections_of(found) if section.title == "Labels")
    assert labels.rows == [("measured: 0.006 to 0.15, median 0.078", 25, 25)]
    assert not any("Labels of fewer" in warning for warning in found.warnings)
