"""What an image looks like after it was compressed as archives do: JPEG-LS, JPEG 2000 and run lengths, by the codecs of pydicom.

An image is quantised to whole numbers first: exactly where its values are whole and span at most 65 536, as those of CT do,
otherwise in 65 536 equal steps over its range.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Limits
from pydantic import model_validator
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from salus.common.errors import UnreadableImage
from salus.common.examples import Array, Example
from salus.common.transforms.base import Draw
from salus.common.transforms.filters import Channel, Filter, FilterSettings

LOSSY = "lossy_method"  # fact of an example: the name of the lossy compression that it went through
METHODS = {"jpeg-ls": "ISO_14495_1", "jpeg-2000": "ISO_15444_1"}  # DICOM PS3.3, C.7.6.1.1.5.1
STEPS = 65_535
KEYWORD: dict[str, Any] = {"pixel_keyword": "PixelData"}
LEAST_SIDE = 32  # smaller slices are continued to this size: the codecs fail on them
RATIO = "compression_ratio"  # fact of an example: size as uncompressed pixel data by size after


class Compress(Filter):
    """Encodes each slice and decodes it again, so that a model meets the error that a lossy archive causes."""

    measured = True

    class Settings(FilterSettings):
        """A compression.

        Args:
            codec: `jpeg-ls`, `jpeg-2000` or `rle`.
            max_error: For JPEG-LS, the largest error of a value, in its own unit where values are whole; 0 is lossless.
            ratio: For JPEG 2000, how many times smaller the result is to be; 1 is lossless.
        """

        kind: Literal["compress"] = "compress"
        codec: Literal["jpeg-ls", "jpeg-2000", "rle"] = "jpeg-ls"  # the fastest, and lossless by default
        max_error: Annotated[int, Limits(ge=0, le=255)] = 0
        ratio: Annotated[float, Limits(ge=1, le=100)] = 1.0

        @model_validator(mode="after")
        def _of_its_codec(self) -> Self:
            if self.max_error and self.codec != "jpeg-ls":
                raise ValueError('expected max_error only with codec = "jpeg-ls"')
            if self.ratio > 1 and self.codec != "jpeg-2000":
                raise ValueError('expected ratio only with codec = "jpeg-2000"')
            return self

        @property
        def syntax(self) -> UID:
            """The transfer syntax."""
            if self.codec == "rle":
                return RLELossless
            if self.codec == "jpeg-ls":
                return JPEGLSNearLossless if self.max_error else JPEGLSLossless
            return JPEG2000 if self.ratio > 1 else JPEG2000Lossless

    settings: Settings

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        """Return the example as it is after decoding, with how much smaller it was as the fact `RATIO`."""
        self._before = self._after = 0
        changed = super().__call__(example, draw)
        facts = {**changed.facts, RATIO: f"{self._before / max(self._after, 1):.3g}"}
        if self.settings.max_error or self.settings.ratio > 1:
            facts[LOSSY] = METHODS[self.settings.codec]
        return replace(changed, facts=facts)

    def filtered(self, channel: Channel, spacing_mm: tuple[float, ...]) -> Channel:
        codes, offset, step = quantised(channel)
        planes = codes[None] if codes.ndim == 2 else codes
        rows, columns = planes.shape[1:]
        missing = ((0, 0), (0, max(0, LEAST_SIDE - rows)), (0, max(0, LEAST_SIDE - columns)))
        bits = max(2, int(codes.max()).bit_length())
        found = [self._coded(plane, bits)[:rows, :columns] for plane in np.pad(planes, missing, mode="edge")]
        back: Channel = np.stack(found).reshape(channel.shape).astype(np.float64) * step + offset
        return back

    def _coded(self, plane: npt.NDArray[np.uint16], bits: int) -> Array:
        own, syntax = self.settings, self.settings.syntax
        allocated = 8 if bits <= 8 else 16
        plane = np.ascontiguousarray(plane, np.uint8 if bits <= 8 else np.uint16)
        form: dict[str, Any] = {
            "rows": plane.shape[0], "columns": plane.shape[1], "number_of_frames": 1, "samples_per_pixel": 1,
            "bits_allocated": allocated, "bits_stored": bits, "pixel_representation": 0,
            "photometric_interpretation": "MONOCHROME2",
        }  # fmt: skip
        lossy = {"jls_error": own.max_error} if own.max_error else {"j2k_cr": [own.ratio]} if own.ratio > 1 else {}
        try:
            data = get_encoder(syntax).encode(plane, **form, **lossy)
            pixels, _ = get_decoder(syntax).as_array(encapsulate([data]), raw=True, **form, **KEYWORD)
        except (RuntimeError, ValueError, AttributeError) as problem:
            raise UnreadableImage(
                "not-compressible", f"the codec {own.codec} takes no image of {plane.shape[0]} x {plane.shape[1]}"
            ) from problem
        self._before += plane.size * allocated
        self._after += 8 * len(data)
        return np.asarray(pixels).reshape(plane.shape)


def quantised(channel: Channel) -> tuple[npt.NDArray[np.uint16], float, float]:
    """Return whole numbers from 0 to 65 535, and offset and step with which they give the channel again."""
    low, high = float(channel.min()), float(channel.max())
    whole = bool((channel == np.rint(channel)).all()) and high - low <= STEPS
    step = 1.0 if whole or not high > low else (high - low) / STEPS
    return np.rint((channel - low) / step).astype(np.uint16), low, step
