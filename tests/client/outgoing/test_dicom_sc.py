"""A picture of a result says what it is for in its pixels and in its header, and headers of the field never stop an object."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from tests.client.outgoing.series import PRODUCER, series

from salus.client.data.dicom.instances import instance_of
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_sc import BURNED_IN, MARGIN, MOST_LINES, write_capture
from salus.client.outgoing.dicom_sr import write_label_report

PICTURE = Image.fromarray(np.full((10, 20, 3), 40, np.uint8))


def test_the_words_are_in_the_pixels(tmp_path: Path) -> None:
    instances = [instance_of(dataset) for dataset in series()]
    uid = write_capture(tmp_path / "a.dcm", PICTURE, ["liver: 12 ml"], instances, PRODUCER)
    found = dcmread(tmp_path / "a.dcm")
    assert (found.SOPInstanceUID, found.SOPClassUID) == (uid, "1.2.840.10008.5.1.4.1.1.7")
    assert found.StudyInstanceUID == instances[0].study_uid
    assert found.SeriesInstanceUID != instances[0].series_uid
    assert (found.ContentQualification, found.ConversionType, found.ImageComments) == ("RESEARCH", "WSD", BURNED_IN)
    assert found.SeriesDescription == "For research use: Picture by lesions"
    pixels = found.pixel_array
    yellow = (pixels[..., 0] > 150) & (pixels[..., 1] > 120) & (pixels[..., 2] < 60)
    rows = np.flatnonzero(yellow.any(axis=1))
    assert rows.min() < 40
    assert rows.max() > len(pixels) - 40
    assert (pixels[pixels.shape[0] // 2, MARGIN] == 40).all()  # the picture itself is unchanged
    assert write_capture(tmp_path / "b.dcm", PICTURE, ["liver: 12 ml"], instances, PRODUCER) == uid
    assert write_capture(tmp_path / "b.dcm", PICTURE, ["liver: 13 ml"], instances, PRODUCER) != uid


def test_a_picture_has_a_bounded_size(tmp_path: Path) -> None:
    instances = [instance_of(series()[0])]
    write_capture(tmp_path / "a.dcm", Image.new("RGB", (1, 60_000)), ["x" * 9999] * 9999, instances, PRODUCER)
    found = dcmread(tmp_path / "a.dcm")
    assert found.Rows < 3 * found.Columns + 40 * MOST_LINES


@pytest.mark.parametrize(
    "change",
    [
        {"StudyDate": "20209999"},
        {"StudyTime": "999999"},
        {"PatientBirthDate": "00000000"},
        {"PatientSex": "X"},
        {"PatientName": "A\\B=C^^^^^^^^^^"},
        {"PatientName": "x" * 300},
        {"PatientID": None},
        {"ReferringPhysicianName": "z^" * 80},
        {"AccessionNumber": "y" * 80},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about these values
def test_headers_of_the_field_lose_a_value_and_not_the_object(tmp_path: Path, change: dict[str, object]) -> None:
    instances = [instance_of(series(**change)[0])]
    write_capture(tmp_path / "a.dcm", PICTURE, [], instances, PRODUCER)
    classes = coded(("lesion",))
    write_label_report(tmp_path / "b.dcm", instances, {"lesion": 0.5}, classes, PRODUCER, finding="lesion")
    assert dcmread(tmp_path / "b.dcm").PatientID == dcmread(tmp_path / "a.dcm").PatientID
