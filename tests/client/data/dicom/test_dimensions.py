import io

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from tests.client.data.dicom_files import make

from salus.client.data.dicom.deidentify import Rules, deidentify
from salus.client.data.dicom.dimensions import KINDS, NAMES, checked_name, dimensions_of, keep_dimensions
from salus.client.data.dicom.picture import read_image
from salus.common.errors import DataError

RULES = Rules(lambda kind, value: "a" * 32, b"s" * 32)
NUMBERS = {
    "EchoTime": "echo", "EchoNumbers": "echo-number", "InversionTime": "inversion-time", "DiffusionBValue": "b-value",
    "FlipAngle": "flip-angle", "RepetitionTime": "repetition-time", "KVP": "tube-voltage", "SliceThickness": "thickness",
    "TemporalPositionIdentifier": "time", "NominalPercentageOfCardiacPhase": "phase", "TriggerTime": "trigger-time",
    "FrameReferenceTime": "frame-time", "AcquisitionNumber": "acquisition",
}  # fmt: skip


def private(vendor: str, b: float) -> Dataset:
    """Return a diffusion-weighted image as older software of a vendor writes it."""
    dataset = Dataset()
    if vendor == "siemens":
        block = dataset.private_block(0x19, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(int(b)))
        block.add_new(0x0E, "FD", [0.6, 0.8, 0.0])
    elif vendor == "unknown-vr":  # implicit little endian, read without a private dictionary
        block = dataset.private_block(0x19, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "UN", str(int(b)).encode() + b" ")
        block.add_new(0x0E, "FD", [0.6, 0.8, 0.0])
    elif vendor == "ge":
        dataset.private_block(0x43, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [int(1e9 + b), 8, 0, 0])
        block = dataset.private_block(0x19, "GEMS_ACQU_01", create=True)
        for element, value in zip((0xBB, 0xBC, 0xBD), (0.6, 0.8, 0.0), strict=True):
            block.add_new(element, "DS", value)
    else:
        dataset.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", b)
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for element, value in zip((0xB0, 0xB1, 0xB2), (0.6, 0.8, 0.0), strict=True):
            block.add_new(element, "FL", value)
    return dataset


@pytest.mark.parametrize("vendor", ["siemens", "unknown-vr", "ge", "philips"])
def test_vendors_private_diffusion_elements_become_the_standard_ones(vendor: str) -> None:
    found = dimensions_of(private(vendor, 1000.0))
    assert (found["b-value"], found["direction"]) == (1000.0, "0.600,0.800,0.000")
    clean = Dataset()
    keep_dimensions(clean, private(vendor, 1000.0), b"s" * 32)
    assert clean.DiffusionBValue == 1000.0
    assert not any(element.tag.is_private for element in clean)
    assert dimensions_of(clean) == found
    assert "direction" not in dimensions_of(private(vendor, 0.0))


@given(
    st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.integers(0, 5000), max_size=6),
    st.lists(st.sampled_from([*sorted(KINDS), "PATIENT NAME"]), min_size=1, max_size=5, unique=True),
    st.sampled_from([None, "", "NONE", "OMNIPAQUE 300"]),
)
def test_an_imported_image_has_the_same_dimensions(
    numbers: dict[str, int], kinds: list[str], agent: str | None
) -> None:
    """Both doors must tell the images of one place apart in the same way; kernels are compared below."""
    dataset = make(np.zeros((2, 2), np.uint16), ImageType=kinds, ContrastBolusAgent=agent, **numbers)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    plain = read_image(buffer.getvalue(), "a")
    imported = read_image(deidentify(pydicom.dcmread(io.BytesIO(buffer.getvalue())), RULES).data, "a")
    assert dict(imported.dimensions) == dict(plain.dimensions)
    assert {name: plain.dimensions[name] for name in NUMBERS.values() if name in plain.dimensions} == {
        NUMBERS[keyword]: float(value) for keyword, value in numbers.items()
    }
    assert plain.thickness_mm == imported.thickness_mm == numbers.get("SliceThickness", 0)
    assert plain.dimensions.get("contrast") == ("yes" if agent == "OMNIPAQUE 300" else None)
    assert "PATIENT" not in str(imported.dimensions)


def test_equal_kernels_stay_equal_and_lose_their_text() -> None:
    tokens = []
    for kernel in ("B30f", "B30f", "DOE^JANE"):
        clean = Dataset()
        keep_dimensions(clean, make(np.zeros((2, 2), np.uint16), ConvolutionKernel=kernel), b"s" * 32)
        tokens.append(clean.ConvolutionKernel)
    assert tokens[0] == tokens[1] != tokens[2]
    assert not any(word in str(tokens) for word in ("B30", "DOE"))


def test_a_value_that_cannot_be_read_is_absent_and_costs_nothing() -> None:
    dataset = make(np.zeros((2, 2), np.uint16), FlipAngle=3)
    dataset.add_new(0x00180081, "LO", "ten")  # EchoTime
    dataset.add_new(0x00180082, "LO", " 2,5 ")  # InversionTime, as a device writes it in Europe
    dataset.add_new(0x00200012, "LO", "1e999")  # AcquisitionNumber
    assert dimensions_of(dataset) == {"flip-angle": 3.0, "inversion-time": 2.5}


def test_the_most_specific_part_decides() -> None:
    frame, shared = Dataset(), Dataset()
    frame.EffectiveEchoTime, shared.EffectiveEchoTime, shared.TemporalPositionIndex = 20.0, 10.0, 4
    assert dimensions_of(frame, shared) == {"echo": 20.0, "time": 4.0}


def test_only_known_dimensions_can_be_chosen() -> None:
    assert checked_name("echo") == "echo"
    assert "direction" in NAMES
    with pytest.raises(DataError, match="echo"):
        checked_name("eccho")
