import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from salus.client.data.dicom.burned_in import Blanked, blank, may_show_names, without
from salus.client.data.dicom.text import Box, merged
from salus.common.errors import UnreadableImage


class Found:
    """Finds what it is told to, and keeps what it has seen."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes = boxes
        self.seen = np.zeros((0,))

    def find(self, pixels: npt.NDArray[np.uint8]) -> tuple[Box, ...]:
        self.seen = pixels
        return self.boxes


def ultrasound(*regions: tuple[int, tuple[object, object, object, object]]) -> Dataset:
    dataset = Dataset()
    dataset.Modality = "US"
    items = []
    for form, (top, left, bottom, right) in regions:
        item = Dataset()
        item.RegionSpatialFormat = form
        item.RegionLocationMinY0, item.RegionLocationMinX0 = top, left
        item.RegionLocationMaxY1, item.RegionLocationMaxX1 = bottom, right
        items.append(item)
    if items:
        dataset.SequenceOfUltrasoundRegions = items
    return dataset


def ones(frames: int = 1) -> npt.NDArray[np.uint8]:
    return np.ones((frames, 20, 30), np.uint8)


def test_without_mask_and_detector_an_image_that_may_show_names_is_refused_with_the_way_to_install_it() -> None:
    with pytest.raises(UnreadableImage, match=r"pip install 'salus\[ocr\]'") as refused:
        blank(ultrasound(), ones(), None, None)
    assert refused.value.reason == "burned-in"


def test_other_images_are_not_searched() -> None:
    dataset = Dataset()
    dataset.Modality = "CT"
    assert not may_show_names(dataset)
    pixels, done = blank(dataset, ones(), None, Found((0, 0, 20, 30)))
    assert done is None
    assert pixels.all()


def test_text_of_any_frame_is_blanked_in_all_frames_and_colours() -> None:
    pixels, done = blank(ultrasound(), ones(3), None, Found((2, 3, 4, 5)))
    assert done == Blanked(((2, 3, 4, 5),))
    assert not pixels[:, 2:6, 3:8].any()
    assert pixels.sum() == 3 * (600 - 20)
    colour, _ = blank(ultrasound(), np.ones((2, 20, 30, 3), np.uint8), None, Found((2, 3, 4, 5)))
    assert colour.sum() == 2 * (600 - 20) * 3


def test_a_mask_and_the_detector_are_both_used() -> None:
    finder = Found((10, 0, 1, 30))
    pixels, _ = blank(ultrasound(), ones(), ((0, 0, 1, 30),), finder)
    assert not finder.seen[:, 0].any()
    assert pixels.sum() == 600 - 60


def test_only_ultrasound_regions_of_measured_data_are_kept() -> None:
    dataset = ultrasound((1, (5, 5, 9, 9)), (3, (12, 0, 14, 29)), (5, (0, 0, 3, 29)))
    pixels, done = blank(dataset, ones(), None, Found())
    assert done == Blanked((), outside=True)
    assert pixels[0, 5:10, 5:10].all()
    assert pixels[0, 12:15].all()
    assert pixels.sum() == 25 + 90


@pytest.mark.parametrize("corners", [(5, 5, 20, 9), (5, 5, 4, 9), (-1, 0, 3, 3), ("", 0, 3, 3)])
def test_a_region_that_is_not_understood_keeps_nothing_from_being_searched(corners: tuple[object, ...]) -> None:
    finder = Found((0, 0, 1, 1))
    pixels, done = blank(ultrasound((1, corners)), ones(), None, finder)  # type: ignore[arg-type]
    assert finder.seen.all()
    assert done == Blanked(((0, 0, 1, 1),))
    assert pixels.sum() == 599


def test_the_callers_pixels_are_not_changed() -> None:
    pixels = ones()
    blank(ultrasound((1, (5, 5, 9, 9))), pixels, ((0, 0, 2, 2),), Found((6, 6, 1, 1)))
    assert pixels.all()


BOXES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 29), st.integers(1, 6), st.integers(1, 6)), max_size=12)


@given(BOXES)
def test_merged_boxes_cover_all_of_their_parts(boxes: list[Box]) -> None:
    parts, whole = without(ones(), boxes), without(ones(), merged(boxes, 20, 30))
    assert not whole[parts == 0].any()


def test_a_page_of_text_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="more than 500 places"):
        merged([(row, column, 1, 1) for row in range(0, 60, 2) for column in range(0, 60, 2)], 60, 60)


@pytest.mark.parametrize(
    ("keyword", "vr", "text"),
    [
        ("Modality", "CS", " US"),
        ("Modality", "CS", "us"),
        ("Modality", "CS", "CT\\OT"),
        ("Modality", "UN", b" SC "),
        ("BurnedInAnnotation", "CS", " YES"),
        ("BurnedInAnnotation", "LO", "Yes "),
        ("SOPClassUID", "UI", "1.2.840.10008.5.1.4.1.1.6.1"),
        ("SOPClassUID", "UI", "1.2.840.10008.5.1.4.1.1.3.1\0"),
        ("SOPClassUID", "UI", "1.2.840.10008.5.1.4.1.1.7.4"),
    ],
)
def test_one_sign_of_burned_in_names_is_enough_however_it_is_written(keyword: str, vr: str, text: str | bytes) -> None:
    dataset = Dataset()
    if keyword != "Modality":
        dataset.Modality = "CT"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom checks what is written
        dataset.add(DataElement(tag_for_keyword(keyword), vr, text))
    assert may_show_names(dataset)


def test_photographs_are_not_secondary_captures() -> None:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    assert not may_show_names(dataset)
