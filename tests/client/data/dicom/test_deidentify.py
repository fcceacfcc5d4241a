"""A canary in every element that DICOM knows, in nested, private and hidden places: none is left."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.deidentify import PixelMask, Rules, deidentify, parse_mask, shifted_date, uid
from salus.client.data.dicom.dimensions import KEPT
from salus.client.data.dicom.elements import keywords_of
from salus.client.data.dicom.picture import read_dicom
from salus.common.errors import ConfigError, UnreadableImage

SECRET = b"a secret of at least sixteen bytes"
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "dicom"
TEXT_VRS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "AS"}
PLACED = {"PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
          "PhotometricInterpretation", "NumberOfFrames", "PlanarConfiguration", "FloatPixelData", "DoubleFloatPixelData",
          "PatientID", "SOPClassUID", "Modality", "PixelPaddingValue"}  # fmt: skip
UNDERSTOOD = set(keywords_of("read", "applied", "checked", "refused")) - PLACED


def rules(folder: Path, masks: tuple[PixelMask, ...] = ()) -> Rules:
    return Rules(Catalogue(folder / "catalogue.sqlite", SECRET).pseudonym, SECRET, masks)


def image(**changes: Any) -> Dataset:
    """Return a plain CT slice."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
    dataset.PatientID = "CANARY-PID"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 5, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.arange(20, dtype="<u2").tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def canary(vr: str, number: int) -> Any:
    """Return an identifier of this VR that can be found again, or None if the VR cannot carry one."""
    if vr in TEXT_VRS:
        return f"CANARY{number:05d}"
    if vr == "UI":
        return f"1.2.826.0.1.7777{number:05d}"
    if vr == "DA":
        return f"19{number % 90 + 10:02d}0{number % 9 + 1}1{number % 9}"
    if vr in {"DT", "TM"}:
        return "1977" + "0523121314.77777" if vr == "DT" else "121314.77777"
    if vr in {"OB", "OW", "UN"}:
        return f"CANARY{number:05d}!".encode()
    if vr in {"DS", "IS"}:
        return "777777777"
    return None


def planted(base: Dataset | None = None) -> tuple[Dataset, int]:
    """Return an image with a canary in every element of the dictionary, nested and private ones besides, and their number.

    Args:
        base: the image; what it has already stays, and each item of its sequences, at any depth, gets canaries too.
    """
    dataset = image() if base is None else base
    count = sum(plant_in_item(item) for item in items_of(dataset))
    for tag_number, (vrs, *_rest) in sorted(DicomDictionary.items()):
        tag = Tag(tag_number)
        vr = vrs.split(" or ")[0]
        value = canary(vr, count)
        if value is None or keyword_for_tag(tag) in PLACED | UNDERSTOOD or tag.group < 8:
            continue
        if base is not None and tag in base:
            continue
        dataset.add(DataElement(tag, vr, value))
        count += 1
    for group in (0x6000, 0x6002, 0x601E, 0x5000):
        dataset.add_new(Tag(group, 0x3000), "OW", b"CANARY OVERLAY!!")
        dataset.add_new(Tag(group, 0x4000), "LT", "CANARY COMMENT")
        count += 2
    block = dataset.private_block(0x0099, "CANARY CREATOR", create=True)
    block.add_new(1, "LO", "CANARY PRIVATE")
    inner = Dataset()
    inner.PatientName, inner.PatientComments = "CANARY NESTED", "CANARY DEEPER"
    middle = Dataset()
    middle.ReferencedPatientSequence = [inner]
    dataset.ReferencedStudySequence = [middle]
    block.add_new(2, "SQ", [middle])
    return dataset, count + 5


def items_of(dataset: Dataset) -> list[Dataset]:
    """Return every item of every sequence, at any depth."""
    items = [item for element in dataset if element.VR == "SQ" for item in element.value]
    return items + [deeper for item in items for deeper in items_of(item)]


def plant_in_item(item: Dataset) -> int:
    """Put canaries into an item of a sequence, private ones among them, and return their number."""
    item.PatientName, item.PatientComments, item.FrameComments = "CANARY ITEM", "CANARY ITEM", "CANARY FRAME"
    item.FrameLabel, item.LUTExplanation, item.FrameOfReferenceUID = "CANARY", "CANARY TABLE", "1.2.826.0.1.777799"
    item.FrameReferenceDateTime = "19770523121314.77777"
    item.private_block(0x0011, "CANARY CREATOR", create=True).add_new(1, "LO", "CANARY PRIVATE")
    return 8


def leaks(data: bytes) -> list[bytes]:
    return [word for word in (b"CANARY", b"1.2.826.0.1.7777", b".77777", b"777777777") if word in data]


def test_no_canary_of_any_element_is_left(tmp_path: Path) -> None:
    dataset, count = planted()
    assert count > 1000
    dataset.Manufacturer = "CANARY SIEMENS CANARY"
    buffer = io.BytesIO()
    whole = FileDataset(buffer, dataset, file_meta=dataset.file_meta, preamble=b"CANARY PREAMBLE ".ljust(128))
    whole.file_meta.ImplementationVersionName = "CANARYMETA"
    whole.file_meta.SourceApplicationEntityTitle = "CANARYAET"
    pydicom.dcmwrite(buffer, whole, enforce_file_format=False)
    assert leaks(buffer.getvalue())  # the canaries are there before
    read = pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True)
    clean = deidentify(read, rules(tmp_path))
    assert leaks(clean.data) == []
    assert leaks(repr((clean.name, clean.patient, clean.study, clean.counts)).encode()) == []
    assert clean.vendor == "SIEMENS"
    again = pydicom.dcmread(io.BytesIO(clean.data))
    assert set(again.dir()) <= ALLOWED
    assert not any(element.tag.is_private for element in again)
    assert clean.counts["private"] >= 2
    assert clean.counts["dropped"] > 500
    for day in (element.value for element in again if element.VR == "DA"):
        assert day != dataset.StudyDate


@pytest.mark.parametrize("keyword", sorted(UNDERSTOOD))
def test_a_canary_in_an_element_that_matters_is_refused_by_name_or_gone(tmp_path: Path, keyword: str) -> None:
    """An element that changes what pixels mean cannot be dropped, so the file is refused instead."""
    vr = dictionary_VR(keyword).split(" or ")[0]
    value = canary(vr, 7)
    inner = Dataset()
    inner.LUTExplanation, inner.LUTDescriptor, inner.LUTData = (
        "CANARY TABLE",
        [64, 0, 16],
        b"CANARYCANARY" * 10 + b"CANARY!!",
    )
    inner.PatientName, inner.PatientComments = "CANARY NESTED", "CANARY DEEPER"
    inner.RealWorldValueSlope, inner.RealWorldValueIntercept = 2.0, 3.0
    dataset = image(**{keyword: [inner] if vr == "SQ" else [1, 2, 3] if value is None else value})
    refused: UnreadableImage | None = None
    try:
        assert leaks(deidentify(dataset, rules(tmp_path)).data) == []
    except UnreadableImage as problem:
        refused = problem
    if refused is not None:
        assert keyword in refused.detail or refused.reason == "bad-geometry"
        assert not leaks(str(refused).encode())


def test_a_short_table_cannot_carry_a_name(tmp_path: Path) -> None:
    words = [int.from_bytes(pair, "little") for pair in (b"AN", b"NA", b"ZZ")]  # ascending, and readable
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.LUTExplanation = [len(words), 0, 16], words, "CANARY"
    with pytest.raises(UnreadableImage, match="not-understood: VOILUTSequence"):
        deidentify(image(VOILUTSequence=[item]), rules(tmp_path))
    item.LUTData = [0, 30_000, 65_535]
    clean = deidentify(image(VOILUTSequence=[item]), rules(tmp_path))
    assert leaks(clean.data) == []
    assert pydicom.dcmread(io.BytesIO(clean.data)).VOILUTSequence[0].dir() == ["LUTData", "LUTDescriptor"]


ALLOWED = {
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelData", "BurnedInAnnotation", "PixelSpacing", "ImagerPixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth", "InstanceNumber", "SeriesNumber", "AcquisitionNumber",
    "TemporalPositionIdentifier", "EchoTime", "RepetitionTime", "FlipAngle", "KVP", "MagneticFieldStrength", "TriggerTime",
    "SliceLocation", "Modality", "VOILUTFunction", "RescaleType", "ImageType", "PatientPosition", "Laterality",
    "ImageLaterality", "ViewPosition", "BodyPartExamined", "Manufacturer", "PatientID", "PatientName", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "StudyDate",
    "LongitudinalTemporalInformationModified", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "ConvolutionKernel", "ContrastBolusAgent", "ComplexImageComponent",
    "DiffusionGradientOrientation", *KEPT,
}  # fmt: skip


def test_words_outside_the_vocabulary_and_numbers_that_are_none_are_dropped(tmp_path: Path) -> None:
    dataset = image(
        ImageType=["ORIGINAL", "CANARY"], BodyPartExamined="CANARY", ViewPosition="CANARY", SOPClassUID="1.2.3.CANARY"
    )
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.SliceThickness = "777777777777"  # a telephone number is no thickness
    again = pydicom.dcmread(io.BytesIO(deidentify(dataset, rules(tmp_path)).data))
    assert again.ImageType == "ORIGINAL"
    assert list(again.PixelSpacing) == [0.5, 0.25]
    for keyword in ("BodyPartExamined", "ViewPosition", "SliceThickness"):
        assert keyword not in again


def test_overlays_in_unused_bits_and_bytes_behind_the_pixels_are_gone(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint16)
    hidden = pixels | np.uint16(0xF000)
    dataset = image(PixelData=hidden.astype("<u2").tobytes() + b"CANARY")
    clean = deidentify(dataset, rules(tmp_path))
    assert b"CANARY" not in clean.data
    again = pydicom.dcmread(io.BytesIO(clean.data))
    assert np.array_equal(again.pixel_array.ravel(), pixels)
    signed = np.array([-5, 7] * 10, dtype=np.int16)
    again = pydicom.dcmread(
        io.BytesIO(deidentify(image(PixelData=signed.tobytes(), PixelRepresentation=1), rules(tmp_path)).data)
    )
    assert np.array_equal(again.pixel_array.ravel(), signed)


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "US"},
        {"Modality": "OT"},
        {"BurnedInAnnotation": "YES"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"},
    ],
)
def test_pictures_that_may_show_names_are_refused_unless_their_device_has_a_mask(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    with pytest.raises(UnreadableImage, match="burned-in"):
        deidentify(image(**changes), rules(tmp_path))
    mask = PixelMask("OTHER", 4, 5, ((0, 0, 1, 5), (3, 4, 1, 1)))
    clean = deidentify(image(**changes), rules(tmp_path, (mask,)))
    pixels = pydicom.dcmread(io.BytesIO(clean.data)).pixel_array
    assert not pixels[0].any()
    assert pixels[3, 4] == 0
    assert pixels[1, 0] == 5


def test_masks_are_read_strictly() -> None:
    assert parse_mask("GE:480x640:0,0,40,640:470,0,10,640") == PixelMask(
        "GE", 480, 640, ((0, 0, 40, 640), (470, 0, 10, 640))
    )
    for bad in ("", "GE", "CANARY:4x5:0,0,1,1", "GE:4x5:0,0,5,5", "GE:4x5:0,0,0,1", "GE:4x5:0,0,1", "GE:4x5:-1,0,1,1"):
        with pytest.raises(ConfigError):
            parse_mask(bad)


def test_a_picture_without_a_patient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no-patient"):
        deidentify(image(PatientID="  "), rules(tmp_path))


def test_pseudonyms_are_stable_and_tell_patients_apart(tmp_path: Path) -> None:
    first, same, other = (
        deidentify(image(PatientID=name, StudyInstanceUID="1.2.3"), rules(tmp_path)) for name in ("a", "a", "b")
    )
    assert first.patient == same.patient != other.patient
    assert first.data == same.data
    assert uid(SECRET, "1.2.3") == uid(SECRET, "1.2.3") != uid(b"another secret of a site", "1.2.3")
    assert len(uid(SECRET, "1.2.3")) <= 64


@settings(max_examples=100)
@given(st.dates(min_value=__import__("datetime").date(1900, 1, 1)), st.text(min_size=1, max_size=8))
def test_dates_keep_their_distance_within_a_patient_and_never_stay(day: Any, patient: str) -> None:
    later = day.fromordinal(min(day.toordinal() + 30, day.max.toordinal()))
    a, b = (shifted_date(d.strftime("%Y%m%d").zfill(8), patient, SECRET) for d in (day, later))
    parse = __import__("datetime").datetime.strptime
    assert (parse(b, "%Y%m%d") - parse(a, "%Y%m%d")).days == (later - day).days
    assert parse(a, "%Y%m%d").date() < day
    assert shifted_date("CANARY", patient, SECRET) == ""


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/dicom")
def test_real_files_keep_their_pixels_and_geometry(tmp_path: Path) -> None:
    done = 0
    for path in sorted(SHARED.rglob("*"))[:400]:
        if not path.is_file() or path.suffix.lower() in {".md", ".json", ".txt"} or done == 12:
            continue
        try:
            before = read_dicom(path)
            clean = deidentify(pydicom.dcmread(path), rules(tmp_path))
        except UnreadableImage:
            continue
        (tmp_path / clean.name).write_bytes(clean.data)
        after = read_dicom(tmp_path / clean.name)
        if "MOSAIC" not in str(pydicom.dcmread(path).get("ImageType")):
            assert np.allclose(before.values, after.values, atol=1e-6)
            assert np.allclose(before.geometry.spacing_mm, after.geometry.spacing_mm)
            assert before.geometry.position is None or np.allclose(
                before.geometry.position, after.geometry.position or ()
            )
        done += 1
    assert done


@pytest.mark.parametrize(
    ("changes", "sex", "age"),
    [
        ({"PatientSex": "F", "PatientAge": "104Y"}, "F", "090Y"),
        ({"PatientSex": "female", "PatientBirthDate": "19500102", "StudyDate": "20200101"}, "F", "069Y"),
        ({"PatientSex": "SMITH", "PatientAge": "SMI"}, None, None),
        ({"PatientBirthDate": "19500102"}, None, None),
    ],
)
def test_sex_and_age_in_years_are_kept_and_the_date_of_birth_is_not(
    tmp_path: Path, changes: dict[str, str], sex: str | None, age: str | None
) -> None:
    clean = pydicom.dcmread(io.BytesIO(deidentify(image(**changes), rules(tmp_path)).data))
    assert (clean.get("PatientSex"), clean.get("PatientAge")) == (sex, age)
    assert "PatientBirthDate" not in clean
    assert "113108" in {code.CodeValue for code in clean.DeidentificationMethodCodeSequence}
