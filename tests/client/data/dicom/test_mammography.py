"""View, side and implant of a mammogram are facts at both doors; tomosynthesis is a volume."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from tests.client.data.dicom.enhanced import as_bytes, enhanced
from tests.client.data.dicom_files import make

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import Rules
from salus.client.data.dicom.kinds import STORAGE
from salus.client.data.dicom.picture import read_image, read_images
from salus.client.data.dicom.volumes import stack

RULES = Rules(lambda kind, value: f"{kind}-{value}", b"secret" * 8)
PIXELS = np.arange(24, dtype=np.uint16).reshape(4, 6)


def code(value: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "CANARY"
    return [item]


@pytest.mark.parametrize(
    ("attributes", "facts"),
    [
        ({"ViewPosition": "MLO", "ImageLaterality": "L", "BreastImplantPresent": "YES"}, ("MLO", "L", "yes")),
        ({"ViewCodeSequence": code("399162004"), "Laterality": "R", "BreastImplantPresent": "NO"}, ("CC", "R", "no")),
        ({"ViewPosition": "CANARY", "ImageLaterality": "X"}, ("", "", "")),
    ],
)
def test_facts_of_a_mammogram_are_kept_by_both_doors(attributes: dict[str, Any], facts: tuple[str, ...]) -> None:
    data = as_bytes(
        make(PIXELS, Modality="MG", SOPClassUID=STORAGE + "1.2", ImagerPixelSpacing=[0.1, 0.1], **attributes)
    )
    clean = _clean(data, RULES).data
    assert b"CANARY" not in clean
    for stored in (data, clean):
        info = read_image(stored, "x").info
        assert tuple(info.get(name, "") for name in ("view", "laterality", "implant")) == facts


def test_tomosynthesis_is_a_volume_with_its_side() -> None:
    pixels = np.stack([PIXELS + 10 * place for place in range(5)])
    frames = [{"ImagePositionPatient": [0, 0, 1.0 * place]} for place in range(5)]
    shared = {"PixelSpacing": [0.1, 0.1], "SliceThickness": 1, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    attributes = {"Modality": "MG", "SOPClassUID": STORAGE + "13.1.3", "ViewPosition": "CC", "ImageLaterality": "L"}
    data = as_bytes(enhanced(pixels, frames, shared, **attributes))
    for stored in (data, _clean(data, RULES).data):
        images = read_images(stored, "x")
        volume = stack(images)
        assert volume.values.shape == (5, 4, 6)
        assert volume.spacing_mm == pytest.approx((1, 0.1, 0.1))
        assert (images[0].info["view"], images[0].info["laterality"]) == ("CC", "L")
