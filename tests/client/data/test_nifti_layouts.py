"""The conventions by which hospitals keep NIfTI masks, each with exact phantoms."""

import csv
import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.client.data.test_nifti_folder import VALUES, write

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.base import Source, files_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError

MASK = np.zeros(VALUES.shape, np.uint8)
MASK[1, 1:3, :2], MASK[2, 1:3, :3] = 1, 2  # 4 voxels and 6 voxels of 6 mm3
ML = {"liver": 0.024, "tumour": 0.036}


def cases(source: Source) -> tuple[dict[str, tuple[ImageRecord, Sample]], list[tuple[str, str]]]:
    found = list(source.scan())
    good = {item.key: (item, source.load(item.key)) for item in found if isinstance(item, ImageRecord)}
    return good, [(item.key, item.reason) for item in found if isinstance(item, Quarantined)]


def only(folder: Path, options: SourceOptions | None = None) -> tuple[ImageRecord, Sample]:
    good, bad = cases(open_source("nifti", folder, options or SourceOptions(), Decoding()))
    assert bad == []
    ((item, sample),) = good.values()
    assert item.sha256 == sample.sha256
    return item, sample


def in_place(values: np.ndarray) -> np.ndarray:
    """Return x, y, z of `write` as z, y, x of a sample."""
    return values.transpose(2, 1, 0)[:, ::-1, ::-1]


def index(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1, "tumour": 2}, {"0": "background", "1": "liver", "2": "tumour"}]
)
def test_nnunet_with_channels_and_names(tmp_path: Path, labels: dict[str, object]) -> None:
    index(tmp_path, labels=labels, channel_names={"0": "T1", "1": "T2"})
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", VALUES)
    write(tmp_path / "imagesTr" / "a_0001.nii.gz", VALUES + 1)
    write(tmp_path / "labelsTr" / "a.nii.gz", MASK)
    write(tmp_path / "labelsTr" / "lost.nii.gz", MASK)
    write(tmp_path / "imagesTs" / "b_0000.nii.gz", VALUES)
    good, bad = cases(open_source("nifti", tmp_path, SourceOptions(), Decoding()))
    assert bad == [("imagesTs/b_0000.nii.gz", "unlabelled"), ("labelsTr/lost.nii.gz", "mask-without-image")]
    ((key, (item, sample)),) = good.items()
    assert json.loads(key) == ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"]
    assert item.targets["mask"].amounts == pytest.approx(ML)
    assert (item.label, item.info["modality"], item.info["channels"]) == ("0.060", "MR", 2)
    assert np.array_equal(sample.measured, [in_place(VALUES), in_place(VALUES + 1)])
    assert np.array_equal(sample.targets["mask"], in_place(MASK))
    assert sample.names == {"mask": ("liver", "tumour")}


def test_nnunet_regions_become_overlapping_structures(tmp_path: Path) -> None:
    index(tmp_path, labels={"background": 0, "whole": [1, 2], "core": [2]})
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", VALUES)
    write(tmp_path / "labelsTr" / "a.nii.gz", MASK)
    item, sample = only(tmp_path)
    assert item.targets["mask"].amounts == pytest.approx({"whole": 0.06, "core": 0.036})
    assert np.array_equal(sample.targets["mask"], [in_place(MASK > 0), in_place(MASK == 2)])


def test_decathlon_and_monai_lists(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "unlisted"):
        write(tmp_path / "imagesTr" / f"{name}.nii.gz", VALUES)
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", MASK)
    index(
        tmp_path,
        modality={"0": "CT"},
        labels={"0": "background", "1": "liver", "2": "tumour"},
        training=[
            {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
            {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"},
            {"image": "../secret.nii.gz", "label": "./labelsTr/a.nii.gz"},
            {"image": "./imagesTr/lost.nii.gz", "label": "./labelsTr/lost.nii.gz"},
            7,
        ],
        validation=[{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}],
        test=["./imagesTr/c.nii.gz"],
    )
    good, bad = cases(open_source("nifti", tmp_path, SourceOptions(), Decoding()))
    assert {json.loads(key)[0]: item.split for key, (item, _) in good.items()} == {
        "imagesTr/a.nii.gz": "", "imagesTr/b.nii.gz": "val",
    }  # fmt: skip
    for item, sample in good.values():
        assert item.info["modality"] == "CT"
        assert item.targets["mask"].amounts == pytest.approx(ML)
        assert np.array_equal(sample.targets["mask"], in_place(MASK))
    entries = {
        f"dataset.json/{place}": reason
        for place, reason in ((1, "listed-twice"), *((n, "bad-entry") for n in (2, 3, 4)))
    }
    unlisted = ("imagesTr/unlisted.nii.gz", "labelsTr/c.nii.gz", "labelsTr/unlisted.nii.gz")
    assert dict(bad) == entries | dict.fromkeys(unlisted, "unlisted") | {"imagesTr/c.nii.gz": "unlabelled"}


def test_a_list_with_classes_and_an_image_of_four_dimensions(tmp_path: Path) -> None:
    four = np.stack([VALUES, VALUES + 1], axis=-1)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "a.nii.gz")
    index(tmp_path, modality={"0": "T1", "1": "T2"}, training=[{"image": "a.nii.gz", "label": 3}])
    item, sample = only(tmp_path)
    assert (item.label, item.targets) == ("3", {})
    assert np.array_equal(sample.measured, [in_place(VALUES), in_place(VALUES + 1)])


def test_bids_masks_belong_to_their_subject_and_session(tmp_path: Path) -> None:
    for subject, session in (("01", "1"), ("01", "2"), ("02", "1")):
        name = f"sub-{subject}_ses-{session}"
        write(tmp_path / f"sub-{subject}/ses-{session}/anat/{name}_T1w.nii.gz", VALUES)
        write(tmp_path / f"sub-{subject}/ses-{session}/anat/{name}_T2w.nii.gz", VALUES)
        marked = MASK * (session == "1")
        write(
            tmp_path / f"derivatives/manual/sub-{subject}/ses-{session}/anat/{name}_space-T1w_desc-x_dseg.nii.gz",
            marked,
        )
    (tmp_path / "derivatives/manual/dseg.tsv").write_text("index\tname\n1\tliver\n2\ttumour\n")
    write(tmp_path / "derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz", MASK)
    good, bad = cases(open_source("nifti", tmp_path, SourceOptions(), Decoding()))
    found = {(item.patient, item.label) for item, _ in good.values()}
    assert found == {("sub-01", "0.060"), ("sub-01", "0.000"), ("sub-02", "0.060")}
    assert all("T1w" in key.split(",")[0] for key in good)
    assert all(list(item.targets["mask"].amounts) == ["liver", "tumour"] for item, _ in good.values())
    assert [reason for _, reason in sorted(bad)] == ["mask-without-image"] + ["unlabelled"] * 3


def test_bids_binary_masks_of_several_structures_are_one_annotation(tmp_path: Path) -> None:
    write(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", VALUES)
    write(tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz", VALUES)
    write(tmp_path / "derivatives/d/sub-01/anat/sub-01_label-liver_mask.nii.gz", (MASK == 1).astype(np.uint8))
    write(tmp_path / "derivatives/d/sub-01/anat/sub-01_label-tumour_mask.nii.gz", (MASK == 2).astype(np.uint8))
    _, bad = cases(open_source("nifti", tmp_path, SourceOptions(labels=""), Decoding()))
    assert [reason for _, reason in sorted(bad)][:2] == [
        "ambiguous-mask",
        "ambiguous-mask",
    ]  # T1w or FLAIR? nothing is guessed
    item, sample = only(tmp_path, SourceOptions(images="*_T1w.nii.gz"))
    assert item.targets["mask"].amounts == pytest.approx(ML)
    assert np.array_equal(sample.targets["mask"], in_place(MASK))


def test_plain_folders_and_names_from_the_operator(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.nii.gz", VALUES)
    write(tmp_path / "labels" / "a.nii.gz", MASK)
    item, sample = only(tmp_path)
    assert item.targets["mask"].amounts == pytest.approx({"1": 0.024, "2": 0.036})
    assert sample.names == {}
    item, sample = only(tmp_path, SourceOptions(structures=("liver", "tumour")))
    assert item.targets["mask"].amounts == pytest.approx(ML)
    assert sample.names == {"mask": ("liver", "tumour")}
    _, bad = cases(open_source("nifti", tmp_path, SourceOptions(structures=("liver",)), Decoding()))
    assert [reason for _, reason in bad] == ["unknown-structure"]
    (tmp_path / "labels.csv").write_text("file,label,PatientID\na.nii.gz,ill,P1\n")
    item, _ = only(tmp_path)
    assert (item.label, item.patient, list(item.targets)) == ("ill", "P1", ["mask"])


def test_some_of_the_named_structures_may_be_chosen(tmp_path: Path) -> None:
    index(tmp_path, labels={"background": 0, "liver": 1, "tumour": 2})
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", VALUES)
    write(tmp_path / "labelsTr" / "a.nii.gz", MASK)
    item, sample = only(tmp_path, SourceOptions(structures=("tumour",)))
    assert item.targets["mask"].amounts == pytest.approx({"tumour": 0.036})
    assert np.array_equal(sample.targets["mask"], in_place(MASK == 2))


@pytest.mark.parametrize(("axes", "step"), [("RAS", 1), ("SAR", 1), ("RAS", 2)])
def test_a_mask_of_another_geometry_is_placed_by_its_own_affine(tmp_path: Path, axes: str, step: int) -> None:
    """The same mask on a larger and finer grid, in other axes: every voxel of the image gets its own class back."""
    large = np.zeros((12, 14, 16), np.uint8)
    large[3:7, 2:7, 4:10] = MASK
    fine = large.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    spacing = np.array([1.0, 2.0, 3.0]) / step
    corner = np.array([-3.0, -4.0, -12.0]) - (np.array([1.0, 2.0, 3.0]) - spacing) / 2
    placed = nibabel.Nifti1Image(fine, nibabel.affines.from_matvec(np.diag(spacing), corner))
    ornt = nibabel.orientations.axcodes2ornt(tuple(axes))
    turned = placed.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(placed.affine), ornt)
    )
    write(tmp_path / "images" / "a.nii.gz", VALUES)
    (tmp_path / "labels").mkdir()
    nibabel.save(turned, tmp_path / "labels" / "a.nii.gz")
    item, sample = only(tmp_path)
    assert np.array_equal(sample.targets["mask"], in_place(MASK))
    assert item.targets["mask"].outside == 0.0


def test_masks_that_reach_beyond_their_image_are_measured_and_others_refused(tmp_path: Path) -> None:
    def placed(values: np.ndarray, corner: tuple[float, float, float]) -> nibabel.Nifti1Image:
        return nibabel.Nifti1Image(values, nibabel.affines.from_matvec(np.diag([1.0, 2.0, 3.0]), corner))

    everywhere = np.ones(VALUES.shape, np.uint8)
    unplaced = nibabel.Nifti1Image(everywhere, None)
    masks = {
        "cut": placed(everywhere, (2.0, 0.0, 0.0)),
        "far": placed(everywhere, (50.0, 0.0, 0.0)),
        "half": placed(everywhere * np.float32(0.5), (0.0, 0.0, 0.0)),
        "minus": placed(-everywhere.astype(np.int16), (0.0, 0.0, 0.0)),
        "large": placed(everywhere * np.float32(1e9), (0.0, 0.0, 0.0)),
        "unplaced": unplaced,
    }
    (tmp_path / "labels").mkdir()
    for name, mask in masks.items():
        write(tmp_path / "images" / f"{name}.nii", VALUES)
        nibabel.save(mask, tmp_path / "labels" / f"{name}.nii")
    good, bad = cases(open_source("nifti", tmp_path, SourceOptions(), Decoding()))
    assert [(json.loads(key)[0], item.targets["mask"].outside) for key, (item, _) in good.items()] == [
        ("images/cut.nii", 0.5)
    ]
    assert dict(bad) == {
        "images/far.nii": "mask-elsewhere",
        "images/half.nii": "not-a-mask",
        "images/minus.nii": "not-a-mask",
        "images/large.nii": "not-a-mask",
        "images/unplaced.nii": "mask-geometry",
    }


def test_a_changed_mask_is_not_the_registered_one(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.nii.gz", VALUES)
    write(tmp_path / "labels" / "a.nii.gz", MASK)
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16, Decoding())
    catalogue.add("n", "nifti", tmp_path, SourceOptions())
    (image,), source = catalogue.images("n"), catalogue.source("n")
    before = source.stamp(image.key)
    assert source.load(image.key).sha256 == image.sha256
    write(tmp_path / "labels" / "a.nii.gz", MASK[::-1])
    assert source.stamp(image.key) != before
    assert source.load(image.key).sha256 != image.sha256


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"labels": {"a": 1, "1": "a"}}', '{"labels": {"a": 1.5}}', '{"labels": {"a": []}}', '{"labels": [1]}',
     '{"labels": {"a": 99999999}}', '{"labels": {"a": 1, "ignore": 2}}', "[" * 100_000],
)  # fmt: skip
def test_a_dataset_json_that_cannot_be_used_is_an_error(tmp_path: Path, content: str) -> None:
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", VALUES)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_source("nifti", tmp_path, SourceOptions(), Decoding())


def test_a_sample_that_was_registered_before_its_mask_was_an_annotation_is_read_as_before(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.nii", VALUES)
    write(tmp_path / "labels" / "a.nii", MASK)
    source = open_source("nifti", tmp_path, SourceOptions(masks="labels"), Decoding())
    sample = source.load("images/a.nii")  # the key in a catalogue of that time
    assert sample.sha256 == hashlib.sha256((tmp_path / "images" / "a.nii").read_bytes()).hexdigest()
    assert sample.targets == {}
    (item,) = source.scan()
    assert isinstance(item, ImageRecord)
    assert (item.sha256 != sample.sha256, item.pixel_sha256 == sample.pixel_sha256) == (True, True)


@pytest.mark.parametrize("name", ["[1].nii", "[a", '["a", 1].nii'])
def test_a_file_may_have_a_name_that_looks_like_a_list(tmp_path: Path, name: str) -> None:
    name = name if name.endswith(".nii") else f"{name}.nii"
    write(tmp_path / "images" / "x.nii", VALUES).rename(tmp_path / name)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), (name, "x")])
    item, _ = only(tmp_path)
    assert (item.key, files_of(item.key)) == (name, (name,))
    assert open_source("nifti", tmp_path, SourceOptions()).stamp(item.key) is not None
    assert files_of(json.dumps(["a", "b"])) == ("a", "b")
