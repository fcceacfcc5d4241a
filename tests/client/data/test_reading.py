"""Files decoded in the child are the files decoded here, and what a hostile one does stays there."""

import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from tests.client.data.dicom_files import write
from tests.client.data.test_deidentify import image
from tests.client.data.test_importing import hostile

from salus.client.config import init_site, open_catalogue
from salus.client.data import reading
from salus.client.data.dicom import DicomImage, read_dicom
from salus.client.data.isolation import Isolated
from salus.client.data.reading import read_isolated
from salus.client.data.sources.base import SourceOptions
from salus.common.errors import UnreadableImage

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8)


def outcome(read: Callable[[Path], DicomImage], path: Path) -> object:
    """Return a picture's numbers and facts, or why there is none."""
    try:
        image = read(path)
    except UnreadableImage as problem:
        return problem.reason
    return [
        value.tobytes() if isinstance(value, np.ndarray) else value
        for value in (getattr(image, field.name) for field in dataclasses.fields(DicomImage))
    ]


def test_both_ways_give_the_same_picture(tmp_path: Path) -> None:
    for number, attributes in enumerate(
        ({}, {"PhotometricInterpretation": "MONOCHROME1"}, {"RescaleSlope": 2, "RescaleIntercept": -1024})
    ):
        path = write(tmp_path / f"{number}.dcm", RAMP, Manufacturer="SIEMENS", **attributes)
        assert outcome(read_isolated, path) == outcome(read_dicom, path)
        assert not isinstance(outcome(read_dicom, path), str)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared DICOM data")
def test_both_ways_agree_on_real_files() -> None:
    seen: dict[str, int] = {}
    for path in sorted(SHARED.rglob("*")):
        key = f"{path.parent}/{path.suffix}"
        if not path.is_file() or seen.get(key, 0) >= 4:  # some of every scanner and series
            continue
        seen[key] = seen.get(key, 0) + 1
        assert outcome(read_isolated, path) == outcome(read_dicom, path), path.name
    assert sum(seen.values()) > 10


def test_hostile_files_cost_themselves_only(tmp_path: Path) -> None:
    good = write(tmp_path / "good.dcm", RAMP)
    for number, data in enumerate(hostile().values()):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(data)
        assert str(tmp_path) not in str(outcome(read_isolated, path))
        assert outcome(read_isolated, good) == outcome(read_dicom, good)
    with pytest.raises(UnreadableImage) as caught:
        read_isolated(tmp_path / "absent.dcm")
    assert caught.value.reason == "missing"


def test_a_site_decodes_in_the_child_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for n in range(3):
        write(data / f"{n}.dcm", RAMP + n, PatientID=f"P{n}")
    (data / "labels.csv").write_text("PatientID,label\nP0,a\nP1,b\nP2,a\n")
    monkeypatch.setattr("pydicom.dcmread", lambda *_, **__: pytest.fail("decoded in this process"))
    calls: list[Path] = []

    def counted(path: Path) -> DicomImage:
        calls.append(path)
        return read_isolated(path)

    monkeypatch.setattr("salus.client.data.sources.dicom_folder.read_isolated", counted)
    catalogue = open_catalogue(site)
    assert catalogue.add("d", "dicom", data, SourceOptions()).images == 3
    assert catalogue.source("d").load("1.dcm").values.shape == (1, 6, 8)
    assert len(calls) == 4
    assert reading._child._process is not None


def encoded(dataset: Dataset) -> bytes:
    """Return a file in the dataset's own transfer syntax."""
    buffer = io.BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def child() -> Iterator[Isolated]:
    with Isolated(b"secret of the test") as opened:
        yield opened


@pytest.mark.parametrize("charset", sorted(filter(None, python_encoding)))
def test_hospitals_write_names_in_every_character_set(child: Isolated, charset: str) -> None:
    """A codec that was not loaded before the child closed itself in once cost every file of such a hospital."""
    dataset = image(SpecificCharacterSet=charset, PatientName="Muster^Max", PatientID="P1", SOPInstanceUID="1.2.3")
    data = encoded(dataset)
    assert child.read(data, "x").patient_id == "P1"
    assert child.clean(data).vendor == "OTHER"


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
def test_every_compression_is_decoded_in_the_child(child: Isolated, syntax: str, samples: int) -> None:
    rng = np.random.default_rng(0)
    shape = (64, 80, 3) if samples == 3 else (64, 80)
    smooth = np.add.outer(np.arange(64), np.arange(80))
    pixels = (smooth[..., None] if samples == 3 else smooth) + rng.integers(0, 5, shape)
    kind = "RGB" if samples == 3 else "MONOCHROME2"
    dataset = image(
        Rows=64, Columns=80, SamplesPerPixel=samples, BitsAllocated=8, BitsStored=8, HighBit=7, SOPInstanceUID="1.2.3",
        PhotometricInterpretation=kind, PixelData=pixels.astype(np.uint8).tobytes(), WindowCenter=127.5, WindowWidth=256,
    )  # fmt: skip
    if samples == 3:
        dataset.PlanarConfiguration = 0
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=98, subsampling=0)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PhotometricInterpretation = "YBR_FULL" if samples == 3 else kind
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    data = encoded(dataset)
    values = child.read(data, "x").rescaled[0] * (255 if samples == 3 else 1)
    expected = np.moveaxis(pixels, -1, 0) if samples == 3 else pixels
    assert np.abs(values - expected).max() <= (12 if syntax == JPEGBaseline8Bit else 0.01)
    clean = pydicom.dcmread(io.BytesIO(child.clean(data).data))
    assert np.abs(clean.pixel_array.astype(int) - pixels).max() <= (12 if syntax == JPEGBaseline8Bit else 0)
