"""Boxes of images from VOC and COCO files, exact to a pixel; what cannot be used is counted."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.image_folder import ImageFolder
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.sources.voc import read_voc
from salus.common.errors import DataError, UnreadableImage

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "bccd"
ROWS, COLUMNS = 20, 30


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (ROWS, COLUMNS), np.uint8)
    pixels[0, 0] = sum(map(ord, path.name)) % 255  # no two pictures are copies
    Image.fromarray(pixels).save(path)


def voc(*boxes: tuple[str, float, float, float, float], rows: int = ROWS, columns: int = COLUMNS) -> str:
    """Return an XML file of (name, xmin, ymin, xmax, ymax)."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox><part><name>nose</name></part></object>"
        for name, left, top, right, bottom in boxes
    )
    return f"<annotation><size><width>{columns}</width><height>{rows}</height><depth>3</depth></size>{objects}</annotation>"


def scanned(
    folder: Path, options: SourceOptions | None = None
) -> tuple[dict[str, tuple[ImageRecord, Sample]], list[tuple[str, str]]]:
    source = open_source("images", folder, options or SourceOptions(), Decoding())
    found = list(source.scan())
    good = {}
    for item in found:
        if isinstance(item, ImageRecord):
            name = json.loads(item.key)[0] if item.key.startswith("[") else item.key
            good[name] = (item, source.load(item.key))
            assert good[name][1].sha256 == item.sha256
    return good, [(item.key, item.reason) for item in found if isinstance(item, Quarantined)]


def test_voc_counts_from_one_and_includes_both_ends(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    picture(tmp_path / "JPEGImages" / "alone.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "lost.xml").write_text(voc())
    (tmp_path / "Annotations" / "a.xml").write_text(
        voc(
            ("wbc", 1, 1, 30, 20),
            ("rbc", 3, 5, 3, 6),  # one pixel wide: a slip of the mouse
            ("rbc", 3, 5, 4, 6),
            ("rbc", 25, 15, 90, 90),
            ("rbc", 31, 1, 40, 9),
            ("rbc", float("nan"), 1, 2, 9),
        )
    )
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    good, bad = scanned(tmp_path)
    ((item, sample),) = good.values()
    assert (item.label, item.split, item.targets["boxes"].amounts) == ("", "val", {"rbc": 2.0, "wbc": 1.0})
    assert sample.names["boxes"] == ("rbc", "wbc")
    assert sample.targets["boxes"].tolist() == [[0, 0, 20, 30, 2], [4, 2, 6, 4, 1], [14, 24, 20, 30, 1]]
    assert Counter(reason for _, reason in bad) == {
        "degenerate-box": 1, "box-outside": 1, "bad-box": 1, "unlabelled": 1, "boxes-without-image": 1,
    }  # fmt: skip
    assert ("Annotations/a.xml/a.png/1", "degenerate-box") in bad
    good, _ = scanned(tmp_path, SourceOptions(structures=("wbc",)))
    assert good["JPEGImages/a.png"][1].targets["boxes"].tolist() == [[0, 0, 20, 30, 1]]


def coco(**changes: object) -> dict[str, object]:
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": COLUMNS, "height": ROWS}],
        "categories": [{"id": 9, "name": "wbc"}, {"id": 2, "name": "rbc"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1.5, 2, 3, 4.5]},
            {"id": 2, "image_id": 5, "category_id": 2, "bbox": [0, 0, 0, 4]},
            {"id": 3, "image_id": 5, "category_id": 2, "bbox": [0, 0, 3, 4], "iscrowd": 1},
        ],
        **changes,
    }


def test_coco_boxes_begin_at_their_corner(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "train" / "b.png")
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(coco()))
    (tmp_path / "labels.csv").write_text("file,label,PatientID\na.png,ill,P1\nb.png,well,P2\n")
    good, bad = scanned(tmp_path, SourceOptions(annotations="train/_annotations.coco.json"))
    item, sample = good["train/a.png"]
    assert (item.label, item.patient, item.targets["boxes"].amounts) == ("ill", "P1", {"rbc": 0.0, "wbc": 1.0})
    assert sample.targets["boxes"].tolist() == [[2, 1.5, 6.5, 4.5, 2]]
    assert good["train/b.png"][0].targets == {}  # a label without boxes is fine
    assert sorted(reason for _, reason in bad) == ["crowd-box", "degenerate-box"]


def test_entries_of_a_coco_file_without_an_image_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    content = coco(
        annotations=[
            {"image_id": 5, "category_id": 9, "bbox": [1, 1, 2, 2]},
            {"image_id": 8, "category_id": 9, "bbox": [1, 1, 2, 2]},
        ]
    )
    content["images"] = [*coco()["images"], {"id": 6, "file_name": "lost.png"}]  # type: ignore[misc]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    good, bad = scanned(tmp_path)
    assert list(good) == ["a.png"]
    assert bad == [("annotations.json/lost.png", "image-missing"), ("annotations.json/image 8", "boxes-without-image")]


def outlined(name: int, *lines: list[float]) -> dict[str, object]:
    return {"image_id": 5, "category_id": name, "bbox": [1, 1, 20, 15], "segmentation": list(lines)}


def test_outlines_are_contours_and_the_mask_that_they_enclose(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    ring = outlined(9, [2, 3, 12, 3, 12, 13, 2, 13], [5, 5, 8, 5, 8, 9, 5, 9])
    (tmp_path / "annotations.json").write_text(json.dumps(coco(annotations=[ring])))
    good, bad = scanned(tmp_path)
    item, sample = good["a.png"]
    expected = np.zeros((ROWS, COLUMNS), np.uint8)
    expected[3:13, 2:12] = 2
    expected[5:9, 5:8] = 0
    assert bad == []
    assert np.array_equal(sample.targets["mask"], expected)
    assert sample.names["mask"] == sample.names["boxes"] == ("rbc", "wbc")
    assert sample.targets["contours"][:, :2].tolist() == [[0, 2]] * 4 + [[1, 2]] * 4
    assert sample.targets["contours"][0].tolist() == [0, 2, 3, 2]
    assert item.targets["mask"].amounts == {"rbc": 0.0, "wbc": 88.0}
    assert item.targets["contours"].amounts == {"rbc": 0.0, "wbc": 2.0}
    both = [ring, outlined(2, [0, 0, 4, 0, 4, 5, 0, 5])]
    (tmp_path / "annotations.json").write_text(json.dumps(coco(annotations=both)))
    sample = scanned(tmp_path)[0]["a.png"][1]
    assert np.array_equal(sample.targets["mask"][1], expected > 0)  # overlapping classes have a channel each
    assert sample.targets["mask"][0].sum() == 20


@pytest.mark.parametrize("line", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], ["x"] * 6, 3])
def test_an_outline_of_another_form_is_an_error(tmp_path: Path, line: list[float]) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "annotations.json").write_text(json.dumps(coco(annotations=[outlined(9, line)])))
    with pytest.raises(DataError, match=r"annotations\.json"):
        open_source("images", tmp_path, SourceOptions())


def test_outlines_that_are_not_finite_or_too_many_cost_their_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for line, reason in (([float("nan")] * 6, "not-finite"), ([1.0, 2.0] * 500_001, "too-large")):
        (tmp_path / "annotations.json").write_text(json.dumps(coco(annotations=[outlined(9, line)])))
        assert scanned(tmp_path)[1] == [("a.png", reason)]


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": [{"image_id": 5, "category_id": 77, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": 5, "category_id": 2, "bbox": [0, 0, 1]}]},
        {"annotations": [{"image_id": 5, "category_id": 2, "bbox": ["x", 0, 1, 1]}]},
        {"annotations": [{"image_id": 5, "category_id": 2, "bbox": [10**400, 0, 1, 1]}]},
        {"annotations": {}},
        {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
        {"categories": [{"id": number, "name": str(number)} for number in range(1001)]},
        {"images": [{"id": "5", "file_name": "a.png"}]},
        {"images": [{"id": 5}]},
        {"images": 3},
    ],
)
def test_a_coco_file_that_cannot_be_used_is_an_error(tmp_path: Path, changes: dict[str, object]) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "annotations.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(DataError, match=r"annotations\.json"):
        open_source("images", tmp_path, SourceOptions(), Decoding())


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;">]><annotation><folder>&b;</folder></annotation>'
HOSTILE = {
    "entities": (LAUGHS, "unsupported"),
    "outside": ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "unsupported"),
    "deep": ("<a>" * 100_000, "nested-too-deep"),
    "cut": (voc(("a", 1, 1, 5, 5))[:-30], "damaged"),
    "no corners": ("<annotation><object><name>a</name></object></annotation>", "damaged"),
    "words": (voc(("a", 1, 1, 5, 5)).replace("<xmin>1", "<xmin>one"), "damaged"),
    "encoding": ('<?xml version="1.0" encoding="no-such"?><annotation/>', "damaged"),
    "large": ("<annotation>" + " " * 2**23, "too-large"),
    "other size": (voc(rows=99), "boxes-mismatch"),
    "many": (voc(*[("a", 1, 1, 5, 5)] * 30_000), "too-large"),
    "classes": (voc(*[(f"c{number}", 1, 1, 5, 5) for number in range(1001)]), "too-large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_costs_its_image_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "Annotations").mkdir()
    for image in ("bad", "good"):
        picture(tmp_path / "JPEGImages" / f"{image}.png")
        (tmp_path / "Annotations" / f"{image}.xml").write_text(voc(("a", 1, 1, 5, 5)))
    text, reason = HOSTILE[name]
    (tmp_path / "Annotations" / "bad.xml").write_text(text)
    good, bad = scanned(tmp_path)
    assert list(good) == ["JPEGImages/good.png"]
    assert bad == [("JPEGImages/bad.png", reason)]


def test_a_document_type_is_refused_before_anything_of_it_is_read() -> None:
    with pytest.raises(UnreadableImage) as caught:
        read_voc(LAUGHS.encode())
    assert caught.value.reason == "unsupported"


def test_numbers_rows_texts_and_series_of_a_label_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "labels.csv").write_text(
        "file,label,PatientID,age,weight,sex,report,curve\na.png,ill,P1,61,80.5,1,Fünf Läsionen,curves/a.csv\n"
        "b.png,,P2,?,,0,,\nc.png,well,P3,old,1,1,,\n"
    )
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "a.csv").write_text("t,hr\n0,60\n1,?\n")
    options = SourceOptions(numbers=("age", "weight"), row=("sex",), text="report", series="curve")
    good, bad = scanned(tmp_path, options)
    assert bad == [("c.png", "not-a-number")]
    item, sample = good["a.png"]
    assert {name: target.kind for name, target in item.targets.items()} == {
        "numbers": "numbers", "row": "row", "text": "text", "series": "series",
    }  # fmt: skip
    assert sample.targets["numbers"].tolist() == [61, 80.5]
    assert sample.targets["row"].tolist() == [1]
    assert sample.targets["text"].tobytes().decode() == "Fünf Läsionen"
    assert np.array_equal(sample.targets["series"], [[0, 60], [1, np.nan]], equal_nan=True)
    assert sample.names == {"numbers": ("age", "weight"), "row": ("sex",), "series": ("t", "hr")}
    item, sample = good["b.png"]
    assert (item.label, sorted(item.targets)) == ("", ["numbers", "row"])
    assert np.isnan(sample.targets["numbers"]).all()
    assert item.targets["numbers"].amounts == {"age": 0.0, "weight": 0.0}
    with pytest.raises(DataError, match="'aeg'.*'age'"):
        open_source("images", tmp_path, SourceOptions(numbers=("aeg",)))
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add("x", "images", tmp_path, options)
    declared = catalogue.declarations.all()["x"]
    assert declared is not None
    assert declared.annotations == ("class", "numbers", "row", "series", "text")


def test_a_series_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    picture(tmp_path / "d" / "a.png")
    (tmp_path / "d" / "labels.csv").write_text("file,label,curve\na.png,x,../secret.csv\n")
    _, bad = scanned(tmp_path / "d", SourceOptions(series="curve"))
    assert bad == [("a.png", "missing")]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared blood-smear data")
def test_real_boxes() -> None:
    reader = ImageFolder(LocalFiles(SHARED, SourceOptions()), ImageFolder.Settings())
    names = [name for name in LocalFiles(SHARED, SourceOptions()).names() if reader.wants(name)]
    assert len(names) == 364
    chosen = [name for name in names if any(number in name for number in ("00338", "00343", "00001"))]
    counts: Counter[str] = Counter()
    for item in reader.examine(chosen):
        counts["images" if isinstance(item, ImageRecord) else item.reason] += 1
    assert counts == {"images": 3, "degenerate-box": 2}
