"""Files written here are those that pydicom writes, byte for byte."""

import io
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.client.data.dicom.test_deidentify import SECRET, image, planted

from salus.client.data.dicom import writing
from salus.client.data.dicom.deidentify import Rules, deidentify
from salus.client.data.dicom.writing import as_file, by_pydicom
from salus.client.data.pseudonyms import pseudonym

CT = "1.2.840.10008.5.1.4.1.1.2"
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=20)
NUMBER = st.one_of(st.integers(-9999, 9999), st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}")))
VALUES = {
    "PatientID": ASCII,
    "PatientName": ASCII,
    "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "AXIAL", "M"]), max_size=4),
    "WindowCenter": st.one_of(NUMBER, st.lists(NUMBER, max_size=3)),
    "InstanceNumber": st.integers(-(2**31), 2**31 - 1),
    "ImagePositionPatient": st.lists(NUMBER, min_size=3, max_size=3),
    "DiffusionBValue": st.floats(0, 5000),
    "DiffusionGradientOrientation": st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    "FrameIncrementPointer": st.just(0x00181063),  # of a kind that is left to pydicom
    "SmallestImagePixelValue": st.integers(0, 100),
    "PixelPaddingValue": st.integers(0, 100),
    "RecommendedDisplayFrameRate": st.integers(0, 100),
    "StudyDate": st.sampled_from(["", "20200101"]),
    "PatientAge": st.sampled_from(["", "041Y"]),
    "NumberOfFrames": st.integers(1, 1000),
}


def built(values: dict[str, object], depth: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "2.25.123"
    dataset.PixelRepresentation, dataset.BitsAllocated = 0, 16
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.add_new("PixelData", "OW", bytes(8))
    if depth:
        inner = built(values, depth - 1)
        dataset.ReferencedImageSequence = Sequence([inner, Dataset()])
        dataset.DeidentificationMethodCodeSequence = Sequence()
    return dataset


@given(values=st.fixed_dictionaries({}, optional=VALUES), depth=st.integers(0, 3))
def test_every_object_is_written_as_pydicom_writes_it(values: dict[str, object], depth: int) -> None:
    assert as_file(built(values, depth)) == by_pydicom(built(values, depth))


@pytest.mark.parametrize(
    "make", [image, lambda: planted()[0], lambda: image(WindowCenter="040.50", WindowWidth="400", PatientAge="007Y")]
)
def test_deidentified_images_are_written_here_and_not_by_pydicom(
    make: Callable[[], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules(lambda kind, value: pseudonym(SECRET, kind, value), SECRET)
    with monkeypatch.context() as patched:
        patched.setattr("salus.client.data.dicom.deidentify.as_file", by_pydicom)
        slow = deidentify(make(), rules).data

    def never(clean: Dataset) -> bytes:
        raise AssertionError("left to pydicom")

    monkeypatch.setattr(writing, "by_pydicom", never)
    assert deidentify(make(), rules).data == slow
    read = pydicom.dcmread(io.BytesIO(slow))
    assert read.file_meta.ImplementationVersionName == "SALUS 1"
    assert np.array_equal(read.pixel_array, make().pixel_array)


def test_text_that_is_not_ascii_and_values_of_64_kb_are_left_to_pydicom() -> None:
    for changes in ({"PatientID": "Ä"}, {"ImageComments": "x" * 70_000}):
        dataset = built(changes, 0)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        assert as_file(dataset) == by_pydicom(dataset)
