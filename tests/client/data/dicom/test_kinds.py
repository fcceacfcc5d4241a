"""Whether a file is a training picture is decided by SOP class and image type, by the same words at both doors."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary
from tests.client.data.dicom_files import make, write

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import Rules
from salus.client.data.dicom.kinds import (
    CLASSES,
    INCLUDABLE,
    PICTURE,
    REASONS,
    STORAGE,
    check_kind,
    checked_kinds,
    kind_of,
)
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import ConfigError, UnreadableImage

PIXELS = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
RULES = Rules(lambda kind, value: f"{kind}-{value}", b"secret" * 8)
NO_PICTURES = {
    "66.4": "annotation",
    "481.3": "annotation",
    "481.2": "dose",
    "30": "parametric-map",
    "7": "secondary-capture",
    "7.4": "secondary-capture",
    "11.1": "presentation-state",
    "88.33": "report",
    "104.1": "document",
    "9.1.1": "waveform",
    "77.1.6": "whole-slide",
    "66": "raw-data",
}


def doors(folder: Path, dataset: Dataset, include: tuple[str, ...] = ()) -> tuple[str, str]:
    """Return what becomes of a file in `dataset add` and in an import: nothing if it is used, or the reason."""
    folder.mkdir()
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    (folder / "labels.csv").write_text("PatientID,label\nP1,1\n")
    found = [
        item
        for item in open_source("dicom", folder, SourceOptions(include=include), None).scan()
        if "a.dcm" in item.key
    ]
    plain = "" if isinstance(found[0], ImageRecord) else found[0].reason
    rules = Rules(RULES.pseudonym, RULES.secret, include=frozenset(include))
    try:
        _clean((folder / "a.dcm").read_bytes(), rules)
    except UnreadableImage as problem:
        return plain, problem.reason
    return plain, ""


@pytest.mark.parametrize(("uid", "reason"), NO_PICTURES.items())
def test_objects_that_are_no_pictures_are_refused_by_their_true_name_at_both_doors(
    tmp_path: Path, uid: str, reason: str
) -> None:
    dataset = make(PIXELS, SOPClassUID=STORAGE + uid)
    dataset.file_meta.MediaStorageSOPClassUID = STORAGE + uid
    assert doors(tmp_path / "x", dataset) == (reason, reason)


def test_a_mask_and_a_dose_grid_beside_an_image_leave_one_picture(tmp_path: Path) -> None:
    for name, uid in (("seg", "66.4"), ("dose", "481.2"), ("ct", "2")):
        write(tmp_path / f"{name}.dcm", PIXELS, SOPClassUID=STORAGE + uid)
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    items = list(open_source("dicom", tmp_path, SourceOptions(), None).scan())
    assert [item.key for item in items if isinstance(item, ImageRecord)] == ["ct.dcm"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "screen-capture"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], ""),
    ],
)
def test_image_types_decide_too_and_the_operator_may_ask_for_them(tmp_path: Path, words: list[str], kind: str) -> None:
    dataset = make(PIXELS, ImageType=words)
    assert doors(tmp_path / "x", dataset) == (kind, kind)
    if kind:
        assert doors(tmp_path / "y", dataset, (kind,)) == ("", "")


def test_a_whole_slide_is_refused_with_its_size() -> None:
    dataset = make(PIXELS, SOPClassUID=STORAGE + "77.1.6", TotalPixelMatrixRows=40000, TotalPixelMatrixColumns=90000)
    with pytest.raises(UnreadableImage, match="40000 x 90000"):
        check_kind(dataset)


def test_a_kind_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="localizer"):
        checked_kinds(["scout"])


def test_every_storage_class_of_the_standard_is_in_the_list_once() -> None:
    listed = [uid for entry in CLASSES for uid in entry.uids]
    assert len(listed) == len(set(listed))
    assert {entry.kind for entry in CLASSES} <= {PICTURE, *REASONS}
    for uid, (name, kind, *_) in UID_dictionary.items():
        below = uid.removeprefix(STORAGE)
        if (
            not name or kind != "SOP Class" or below == uid or below.startswith(("501.", "601."))
        ):  # security and industry
            continue
        assert any(below == one or (one.endswith(".") and below.startswith(one)) for one in listed), name


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([uid for uid in UID_dictionary if uid.startswith(STORAGE)] + ["1.2.3", ""]),
    st.sampled_from(["CT", "SEG", "RTDOSE", "OT", ""]),
    st.lists(st.sampled_from(["ORIGINAL", "LOCALIZER", "SCREEN SAVE", "AXIAL"]), max_size=4),
    st.sets(st.sampled_from(INCLUDABLE)),
)
def test_what_is_not_a_picture_is_used_only_if_asked_for(
    uid: str, modality: str, words: list[str], include: set[str]
) -> None:
    dataset = make(PIXELS, SOPClassUID=uid, Modality=modality, ImageType=words)
    kind = kind_of(dataset)
    if kind == PICTURE or kind in include:
        check_kind(dataset, include)
        return
    with pytest.raises(UnreadableImage) as caught:
        check_kind(dataset, include)
    assert caught.value.reason == kind
