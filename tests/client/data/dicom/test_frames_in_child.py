"""The sandboxed child reads and de-identifies enhanced objects, clips, SPECT and PET: nothing is loaded later."""

from pathlib import Path

import numpy as np
import pytest
from tests.client.data.dicom.enhanced import as_bytes
from tests.client.data.dicom.test_clips import TIMES, clip, spect
from tests.client.data.dicom.test_frames import volume_file
from tests.client.data.dicom.test_suv import pet

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import PixelMask
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.dicom.picture import read_images
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions

FILES = {
    "enhanced": (volume_file(), {"volumes": True}, 2),
    "clip": (as_bytes(clip(4, True, FrameTimeVector=[0, 5, 6, 7], FrameIncrementPointer=TIMES)), {}, 1),
    "frames": (as_bytes(clip(4, True)), {"frames": "each"}, 4),
    "spect": (as_bytes(spect(-5, 2)), {"volumes": True}, 2),
    "pet": (as_bytes(pet()), {"suv": True}, 1),
}


@pytest.mark.parametrize("name", FILES)
def test_a_child_reads_what_this_process_reads(tmp_path: Path, name: str) -> None:
    data, options, count = FILES[name]
    (tmp_path / "a.dcm").write_bytes(data)
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    here = open_source("dicom", tmp_path, SourceOptions(**options), None)
    there = open_source("dicom", tmp_path, SourceOptions(**options), Decoding())
    records = [item for item in there.scan() if isinstance(item, ImageRecord)]
    assert records == [item for item in here.scan() if isinstance(item, ImageRecord)]
    assert len(records) == count
    for record in records:
        one, other = here.load(record.key), there.load(record.key)
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.measured, other.measured)
        assert one.spacing_mm == other.spacing_mm


def test_a_child_de_identifies_them() -> None:
    with Isolated(b"secret" * 8, (PixelMask("OTHER", 6, 8, ((0, 0, 1, 1),)),)) as child:
        for name, (data, _, _) in FILES.items():
            images = read_images(child.clean(data).data, "x")
            assert [image.values.shape for image in images] == [i.values.shape for i in read_images(data, "x")], name
            assert [image.suv_factor for image in images] == [i.suv_factor for i in read_images(data, "x")]
