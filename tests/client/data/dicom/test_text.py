import io

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from salus.client.data.dicom import text
from salus.client.data.dicom.cleaning import Isolated

detector = pytest.mark.skipif(not text.installed(), reason=f"needs the text detector: {text.INSTALL}")
PLACE = (40, 100)  # row and column


def speckle(words: str, size: int = 16, grey: int = 220, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return a picture like ultrasound, with words at `PLACE`."""
    noise = np.random.default_rng(seed).rayleigh(35, (240, 320)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).text((PLACE[1], PLACE[0]), words, font=ImageFont.load_default(size), fill=grey)
    return np.array(image)


def ultrasound(frames: npt.NDArray[np.uint8]) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = "1.2.840.10008.5.1.4.1.1." + ("3.1" if len(frames) > 1 else "6.1")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PatientID, dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "P1", "US", "1.2", "1.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *frames.shape[1:], 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    if len(frames) > 1:
        dataset.NumberOfFrames, dataset.FrameTime = len(frames), 30
    dataset.PixelData = frames.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@detector
def test_text_is_found_with_a_margin_and_speckle_is_not() -> None:
    finder = text.TextFinder()
    assert finder.find(speckle("")[None]) == ()
    (found,) = finder.find(speckle("DOE JANE 12.03.1961")[None])
    row, column, height, width = found
    assert row <= PLACE[0] + 3
    assert row + height >= PLACE[0] + 17
    assert column <= PLACE[1]
    assert column + width >= PLACE[1] + 150


@detector
def test_in_the_closed_child_text_of_one_frame_is_blanked_in_all() -> None:
    frames = np.stack([speckle("DOE JANE" if frame == 2 else "", seed=frame) for frame in range(4)])
    with Isolated(b"s" * 16, text=True) as child:
        clean = child.clean(ultrasound(frames))
    assert clean.blanked is not None
    ((row, column, height, width),) = clean.blanked.boxes
    pixels = pydicom.dcmread(io.BytesIO(clean.data)).pixel_array
    assert not pixels[:, row : row + height, column : column + width].any()
    assert np.array_equal(pixels[:, 120:], frames[:, 120:])


@detector
@pytest.mark.parametrize("scale", [1, 40])
def test_text_in_16_bits_is_found(scale: int) -> None:
    picture = speckle("DOE JANE").astype(np.int16) * scale - 300
    assert text.TextFinder().find(picture[None])


@detector
def test_text_in_the_corners_of_a_large_image_is_found() -> None:
    large = np.zeros((1, 1500, 1700), np.uint8)
    large[0, :240, :320] = speckle("DOE JANE")
    large[0, -240:, -320:] = speckle("12.03.1961")
    assert len(text.TextFinder().find(large)) == 2


def test_nothing_is_installed_where_the_weights_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKAGE", "no_such_package")
    assert not text.installed()


def test_frames_of_long_clips_are_sampled_and_summarised() -> None:
    clip = np.zeros((30, 4, 4), np.uint8)
    clip[17] = 200  # between two samples
    seen = list(text._frames(clip))
    assert len(seen) == text.SAMPLED + 2
    assert any(frame.max() == 200 for frame in seen)
    assert len(list(text._frames(clip[:8]))) == 8
