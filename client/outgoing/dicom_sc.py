"""A picture of a result as DICOM secondary capture (PS3.3, A.8), for viewers that show neither segmentations nor reports.

That it is for research is burned into the pixels, because viewers need not show descriptions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from salus.client.data.dicom.instances import Instance, header_of, sources_of
from salus.client.outgoing.dicom_seg import SERIES_NUMBER
from salus.client.outgoing.highdicom_extra import qualified, quiet, require_highdicom
from salus.client.outgoing.producer import MANUFACTURER, MARK, Producer
from salus.common.errors import UnreadableImage
from salus.common.files import write_whole

BURNED_IN = f"{MARK.upper()} ONLY - NOT FOR DIAGNOSIS"
LETTERS = 18  # pixels high
MARGIN = 8
MOST_LINES = 20
MOST_LETTERS = 76  # in a line; the rest is cut, and the report has it
WIDTH = 768  # pixels: wide enough for a line


def write_capture(
    path: Path, picture: Image.Image, lines: Sequence[str], instances: Sequence[Instance], producer: Producer
) -> str:
    """Write a picture with lines of text, completely or not at all, and return its SOPInstanceUID.

    Args:
        picture: colour.
        lines: what the model says; at most `MOST_LINES` are shown, and how many more there are.
        instances: the source images, of one series; the picture is of their patient and study.

    Raises:
        ConfigError: highdicom is not installed.
        UnreadableImage: images whose patient or study the standard's writer does not take.
    """
    hd = require_highdicom()
    page = _page(picture, lines)
    uid = producer.uid("capture", sources_of(instances), producer.content(page.tobytes()))
    try:
        with quiet():
            written = hd.sc.SCImage.from_ref_dataset(
                header_of(instances[0]),
                np.asarray(page),
                "RGB",
                8,
                "PATIENT",
                series_instance_uid=producer.uid("series", uid),
                series_number=SERIES_NUMBER + 2,
                sop_instance_uid=uid,
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=producer.job,
                software_versions=producer.version,
                series_description=producer.title("Picture"),
                patient_orientation=("L", "P"),
                transfer_syntax_uid="1.2.840.10008.1.2.1",
            )
    except ValueError:
        raise UnreadableImage("no-capture", "a picture of an image with this header cannot be written") from None
    _described(written, instances)
    write_whole(path, qualified(written, instances[0]))
    return uid


def _described(written: Any, instances: Sequence[Instance]) -> None:
    written.PatientOrientation = None  # a picture with text around it has none; the writer insists on a value
    written.ConversionType = "WSD"
    written.Modality = "OT"
    written.ImageComments = BURNED_IN
    written.DerivationDescription = BURNED_IN
    with quiet():
        from pydicom.dataset import Dataset

        source = Dataset()
        source.ReferencedSOPClassUID = instances[0].sop_class_uid
        source.ReferencedSOPInstanceUID = instances[0].sop_instance_uid
        written.SourceImageSequence = [source]


def _page(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Return the picture between a line that says what it is for and the lines about it."""
    height = max(1, min(2 * WIDTH, round(picture.height * WIDTH / picture.width)))
    shown = [line[:MOST_LETTERS] for line in lines[:MOST_LINES]]
    shown += [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    step = LETTERS + MARGIN
    page = Image.new("RGB", (WIDTH, height + step * (len(shown) + 2) + MARGIN))
    page.paste(picture.convert("RGB").resize((WIDTH, height), Image.Resampling.BILINEAR), (0, step + MARGIN))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(LETTERS)
    draw.text((MARGIN, MARGIN), BURNED_IN, fill=(255, 210, 0), font=font)
    for number, line in enumerate([*shown, BURNED_IN]):
        colour = (255, 210, 0) if number == len(shown) else (255, 255, 255)
        draw.text((MARGIN, step + MARGIN + height + step * number), line, fill=colour, font=font)
    return page
