"""SUV by body weight: computed where an image states what it needs, equal at both doors, otherwise refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from tests.client.data.dicom.enhanced import as_bytes
from tests.client.data.dicom_files import make

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import Rules
from salus.client.data.dicom.kinds import STORAGE
from salus.client.data.dicom.picture import read_image
from salus.client.data.dicom.suv import suv_factor
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import UnreadableImage

RULES = Rules(lambda kind, value: f"{kind}-{value}", b"secret" * 8)
PIXELS = np.arange(24, dtype=np.uint16).reshape(4, 6)
HALF_LIFE = 6586.2  # of fluorine-18, in seconds


def pet(dose: float = 4e8, injected: str = "100000", **attributes: Any) -> FileDataset:
    """Return a PET image of a patient of 70 kg, whose series starts at 11:00."""
    given_dose = Dataset()
    given_dose.RadionuclideTotalDose = dose
    given_dose.RadionuclideHalfLife = HALF_LIFE
    given_dose.RadiopharmaceuticalStartTime = injected
    return make(PIXELS, **{
        "SOPClassUID": STORAGE + "128", "Modality": "PT", "Units": "BQML", "PatientWeight": 70, "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"], "SeriesDate": "20200101", "SeriesTime": "110000",
        "AcquisitionDate": "20200101", "AcquisitionTime": "110500", "RescaleSlope": 2.5, "RescaleIntercept": 0,
        "RadiopharmaceuticalInformationSequence": [given_dose], **attributes,
    })  # fmt: skip


def test_the_factor_is_that_of_the_formula() -> None:
    assert suv_factor(pet()) == pytest.approx(70_000 / (4e8 * 2 ** (-3600 / HALF_LIFE)), rel=1e-8)
    assert suv_factor(pet(DecayCorrection="ADMIN")) == pytest.approx(70_000 / 4e8)
    assert suv_factor(pet(Units="GML")) == 1
    night = pet(injected="233000", SeriesTime="003000", AcquisitionTime="003500")
    assert suv_factor(night) == pytest.approx(70_000 / (4e8 * 2 ** (-3600 / HALF_LIFE)), rel=1e-8)
    philips = pet(Units="CNTS")
    philips.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.0005")
    assert suv_factor(philips) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"PatientWeight": None}, "PatientWeight"),
        ({"PatientWeight": 0}, "PatientWeight"),
        ({"Units": "CNTS"}, "CNTS"),
        ({"Units": "PROPCNTS"}, "PROPCNTS"),
        ({"Units": None}, "Units"),
        ({"CorrectedImage": ["DECY"]}, "ATTN"),
        ({"CorrectedImage": ["ATTN"]}, "DECY"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection"),
        ({"SeriesTime": "120000"}, "SeriesTime"),
        ({"SeriesTime": None}, "SeriesTime"),
        ({"dose": 370}, "RadionuclideTotalDose"),
        ({"injected": ""}, "RadiopharmaceuticalStartTime"),
        ({"RadiopharmaceuticalInformationSequence": None}, "RadiopharmaceuticalInformationSequence"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUVType"),
        ({"Modality": "CT"}, "Modality"),
    ],
)
def test_what_is_missing_is_named_where_suv_is_asked_for(tmp_path: Path, attributes: dict[str, Any], name: str) -> None:
    dataset = pet(**attributes)
    for door, data in (("plain", as_bytes(dataset)), ("imported", _clean(as_bytes(dataset), RULES).data)):
        folder = tmp_path / door
        folder.mkdir()
        (folder / "a.dcm").write_bytes(data)
        (folder / "labels.csv").write_text("file,label\na.dcm,1\n")
        asked = [i for i in open_source("dicom", folder, SourceOptions(suv=True), None).scan() if i.key == "a.dcm"]
        assert getattr(asked[0], "reason", "") == "no-suv"
        assert door == "imported" or name in getattr(asked[0], "detail", "")
        other = [i for i in open_source("dicom", folder, SourceOptions(), None).scan() if i.key == "a.dcm"]
        assert isinstance(other[0], ImageRecord)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(3, 200).map(lambda value: round(value, 2)),
    st.floats(1e6, 1e9).map(round),
    st.integers(0, 23 * 60),
    st.sampled_from([1, 0.125, 3.75]),
)
def test_an_import_keeps_suv_and_units_and_drops_weight_and_dose(
    weight: float, dose: int, minutes: int, slope: float
) -> None:
    injected = f"{(11 * 60 - minutes) % (24 * 60) // 60:02d}{(11 * 60 - minutes) % 60:02d}00"
    data = as_bytes(pet(dose, injected, PatientWeight=weight, RescaleSlope=slope))
    plain, clean = read_image(data, "x"), _clean(data, RULES).data
    imported = read_image(clean, "x")
    np.testing.assert_array_equal(plain.intensities, imported.intensities)
    assert imported.suv_factor == pytest.approx(plain.suv_factor, rel=1e-8)
    assert plain.suv_factor == pytest.approx(1000 * weight / (dose * 2 ** (-60 * minutes / HALF_LIFE)), rel=1e-6)
    assert b"Radiopharma" not in clean


@pytest.mark.parametrize("volumes", [False, True])
def test_a_sample_in_suv_has_the_values_of_the_formula_and_looks_as_before(tmp_path: Path, volumes: bool) -> None:
    for place in range(3):
        where = {"ImagePositionPatient": [0, 0, place], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        (tmp_path / f"{place}.dcm").write_bytes(
            as_bytes(pet(WindowCenter=20, WindowWidth=30, InstanceNumber=place + 1, **where))
        )
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    factor = suv_factor(pet())
    samples = {}
    for suv in (False, True):
        source = open_source("dicom", tmp_path, SourceOptions(suv=suv, volumes=volumes), None)
        record = next(item for item in source.scan() if isinstance(item, ImageRecord))
        samples[suv] = source.load(record.key)
    np.testing.assert_allclose(samples[True].measured, samples[False].measured * factor, rtol=1e-5)
    np.testing.assert_allclose(samples[True].values, samples[False].values, atol=1e-5)


@pytest.mark.parametrize(
    ("stated", "zone", "clock", "usable"),
    [
        ("20200101100000.000", None, "", True),
        ("20200101100000+0100", "+0100", "", True),
        ("20200101100000.0000-0500", None, "100000", True),  # the clock time shows that the zone is that of the series
        ("20200101090000+0000", "+0100", "", False),
        ("20200101090000+0000", None, "", False),
        ("20200101090000+0000", None, "100000.00", False),
    ],
)
def test_an_injection_in_another_time_zone_gives_no_uptake(
    stated: str, zone: str | None, clock: str, usable: bool
) -> None:
    dataset = pet(injected=clock, TimezoneOffsetFromUTC=zone)
    dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = stated
    if usable:
        assert suv_factor(dataset) == pytest.approx(70_000 / (4e8 * 2 ** (-3600 / HALF_LIFE)), rel=1e-8)
    else:
        with pytest.raises(UnreadableImage, match="time zone"):
            suv_factor(dataset)
