"""Loads all DICOM decoders and character sets at once, for a process that can open no files later."""

import codecs
import contextlib
import warnings

import numpy as np

from salus.client.data.dicom.deidentify import Rules, deidentify
from salus.client.data.dicom.display import Window
from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.grouping import grouped, plane_of_image
from salus.client.data.dicom.picture import Facts, picture
from salus.client.data.dicom.volumes import stack


def load_decoders() -> None:
    """Import everything that an image may need, because nothing can be opened later."""
    from PIL import Image
    from pydicom.charset import python_encoding
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian

    warnings.simplefilter("ignore")
    import nibabel.nicom.dicomwrappers  # noqa: F401 - for mosaics
    import numpy.ma  # noqa: F401 - for medians

    Image.init()  # Pillow decodes JPEG for pydicom, and loads its parts when they are first needed
    for encoding in {*python_encoding.values(), "ascii", "utf-8", "latin-1"}:
        codecs.lookup(encoding)  # hospitals write names in all of them, and each is a module of its own
    decoders: list[bool] = []
    for syntax in AllTransferSyntaxes:
        with contextlib.suppress(NotImplementedError, ValueError):
            decoder = get_decoder(UID(syntax))
            decoders.append(decoder.is_available)
            if len(decoder.available_plugins) > 1:  # GDCM ends the process where compressed data are damaged
                decoder.remove_plugin("gdcm")
    trial = Dataset()
    trial.file_meta = FileMetaDataset()
    trial.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    trial.Rows = trial.Columns = 2
    trial.SamplesPerPixel, trial.PhotometricInterpretation, trial.PatientID = 1, "MONOCHROME2", "warm"
    trial.BitsAllocated, trial.BitsStored, trial.HighBit, trial.PixelRepresentation = 8, 8, 7, 0
    trial.PixelData = np.zeros(4, np.uint8).tobytes()
    deidentify(trial, Rules(lambda kind, value: value, bytes(16)))


def try_volume() -> None:
    """Stack a few slices at uneven distances under different windows: each of these steps makes numpy import something."""
    slices = []
    for number, place in enumerate((0.0, 1.0, 2.2, 3.2)):
        geometry = Geometry((1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, place))
        facts = Facts(
            window=Window("LINEAR", 1.0, 2.0 + number),
            inverted=False,
            mirror=0.0,
            geometry=geometry,
            patient_id="x",
            study_uid="1",
            series_uid="1",
            instance_number=number,
            frame_step_mm=(0.0, 0.0, 1.0),
            modality="CT",
            vendor="OTHER",
        )
        slices.append(picture(facts, np.zeros((1, 2, 2), np.float32), None, "", "trial"))
    grouped([plane_of_image(image, str(number)) for number, image in enumerate(slices)])
    stack(slices)
