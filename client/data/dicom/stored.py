"""The stored values of an image: decoded, of the bits that the header names, whatever else the header says.

A decoder is given only the elements that describe the form of the pixels, each parsed by `numbers`: a damaged element of no
meaning costs nothing. Follows PS3.5 section 8 (bits) and PS3.3 C.7.6.3 (image pixels).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000TransferSyntaxes, RLELossless

from salus.client.data.dicom.elements import COLOUR, GREY, PALETTE, PIXELS, check_elements
from salus.client.data.dicom.numbers import has, not_understood, number_of, whole_of, word_of
from salus.client.data.dicom.syntaxes import check_syntax, has_colour_transform, is_signed
from salus.common.errors import UnreadableImage

MAX_PIXELS = 2**28  # rows x columns x frames x samples, checked before decoding; a CT of 1000 slices of 512 x 512 fits
FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
INTEGERS = (1, 8, 16, 32)
COPIED = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


@dataclass(frozen=True)
class Form:
    """What the header says of the form of its pixels.

    Args:
        bits: of one stored value.
        high: the place of its highest bit.
        floats: whether it holds floats.
    """

    keyword: str
    photometric: str
    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    bits: int
    high: int
    signed: bool

    @property
    def floats(self) -> bool:
        """Whether the values are floats."""
        return self.keyword in FLOATS


def form_of(dataset: Dataset) -> Form:
    """Return the form of an image's pixels.

    Raises:
        UnreadableImage: no pixels, too many of them, or an element about them that is not understood, by its name.
    """
    keyword = next((keyword for keyword in PIXELS if has(dataset, keyword)), "")
    if not keyword:
        raise UnreadableImage("no-pixels", "it contains no pixels")
    check_elements(dataset)
    rows, columns = (whole_of(dataset, name, 0, most=2**16 - 1) for name in ("Rows", "Columns"))
    frames = max(whole_of(dataset, "NumberOfFrames", 1), 1)
    samples = whole_of(dataset, "SamplesPerPixel", 1, least=1, most=4)
    if not rows or not columns:
        raise not_understood("Columns" if rows else "Rows", "is missing or 0")
    declared = rows * columns * frames * samples
    if declared > MAX_PIXELS:
        raise UnreadableImage("too-large", f"it declares {declared} pixels")
    photometric = word_of(dataset, "PhotometricInterpretation")
    expected = {**dict.fromkeys((*GREY, PALETTE), 1), **dict.fromkeys(COLOUR, 3)}.get(photometric)
    if expected is None:
        raise not_understood("PhotometricInterpretation", "is missing or not supported")
    if samples != expected:
        raise not_understood("SamplesPerPixel", f"is {samples}, where {photometric} has {expected}")
    if keyword in FLOATS:
        allocated = FLOATS[keyword]
        return Form(keyword, photometric, rows, columns, frames, samples, allocated, allocated, allocated - 1, True)
    allocated = whole_of(dataset, "BitsAllocated", 0)
    bits = whole_of(dataset, "BitsStored", allocated)
    high = whole_of(dataset, "HighBit", bits - 1)
    if allocated not in INTEGERS:
        raise not_understood("BitsAllocated", f"is none of {', '.join(map(str, INTEGERS))}")
    if not 1 <= bits <= allocated:
        raise not_understood("BitsStored", "is not between 1 and BitsAllocated")
    if not bits - 1 <= high < allocated:
        raise not_understood("HighBit", "is not between BitsStored - 1 and BitsAllocated - 1")
    signed = whole_of(dataset, "PixelRepresentation", 0, most=1) == 1
    return Form(keyword, photometric, rows, columns, frames, samples, allocated, bits, high, signed)


def stored_pixels(dataset: Dataset) -> tuple[Form, npt.NDArray[Any]]:
    """Return the form of an image and its stored values, ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]`` in RGB.

    Raises:
        UnreadableImage: as `form_of`, and ``unsupported``, with its name, for an encoding that cannot be decoded here.
    """
    form = form_of(dataset)
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "") or ExplicitVRLittleEndian))
    check_syntax(syntax, form.bits)
    shifted = form.high != form.bits - 1 and not form.floats
    if shifted and syntax.is_encapsulated and syntax != RLELossless:
        raise not_understood("HighBit", f"is not BitsStored - 1 in pixels compressed as {syntax.name}")
    beyond = _padding_beyond(dataset, form, syntax)
    plain = _plain(dataset, form, syntax, whole_words=shifted or beyond is not None)
    if not syntax.is_encapsulated:
        _check_length(plain, form)
    pixels = np.asarray(plain.pixel_array)
    shape = (form.frames, form.rows, form.columns, *((3,) if form.samples == 3 else ()))
    if pixels.size != np.prod(shape):
        raise UnreadableImage("damaged", "PixelData decodes to another size than Rows, Columns and NumberOfFrames say")
    pixels = pixels.reshape(shape)
    if beyond is not None:
        form = _with_padding(form, pixels, beyond)
    if form.floats:
        if not np.isfinite(pixels).all():
            raise UnreadableImage("not-finite", f"{form.keyword} contains NaN or infinite values")
        return form, pixels
    return form, _of_bits(pixels, form, form.high - form.bits + 1 if shifted else 0)


def _check_length(plain: Dataset, form: Form) -> None:
    """Raise UnreadableImage for pixels that are not compressed and are fewer than the header says: a cut file."""
    values = form.rows * form.columns * form.frames * form.samples
    if form.photometric == "YBR_FULL_422":
        values = values // 3 * 2  # two pixels share their colour
    expected, found = (values * form.allocated + 7) // 8, len(plain[form.keyword].value)
    if found < expected:
        raise UnreadableImage("damaged", f"{form.keyword} has {found} bytes, where the header announces {expected}")


def _of_bits(pixels: npt.NDArray[Any], form: Form, shift: int) -> npt.NDArray[Any]:
    """Return pixels with only their stored bits, sign-extended where they are signed; old overlays hide in the others."""
    if pixels.dtype.kind not in "iu":
        raise UnreadableImage("damaged", "PixelData decodes to no integers")
    words = _typed(pixels >> shift if shift else pixels, signed=form.signed)
    spare = 8 * words.dtype.itemsize - form.bits
    if spare <= 0:
        return words
    return (words << spare) >> spare  # arithmetic for signed types, logical for others


def _typed(words: npt.NDArray[Any], *, signed: bool) -> npt.NDArray[Any]:
    """Return the same bits as signed or unsigned numbers."""
    return words.view(np.dtype(f"{'i' if signed else 'u'}{words.dtype.itemsize}").newbyteorder(words.dtype.byteorder))


def _padding_beyond(dataset: Dataset, form: Form, syntax: UID) -> int | None:
    """Return the word of a padding value that the stored bits cannot hold, or None; some devices write 63536 beside 12 bits."""
    apart = form.photometric in GREY and not form.floats and form.bits < form.allocated and form.high == form.bits - 1
    if not apart or (syntax.is_encapsulated and syntax != RLELossless):
        return None
    value = number_of(dataset, "PixelPaddingValue")
    if value is None:
        return None
    word = int(value) % 2**form.allocated
    extended = 2**form.allocated - 2 ** (form.bits - 1) if form.signed else 2**form.allocated
    return word if 2**form.bits <= word < extended else None


def _with_padding(form: Form, words: npt.NDArray[Any], padding: int) -> Form:
    """Return the form under which padding keeps its value where it occurs: that of whole words.

    Cut to 12 bits, padding of 63536 would become the measurement 2096.
    """
    padded = words == padding
    if not padded.any():
        return form
    whole = _typed(words, signed=form.signed)
    if not np.array_equal(whole[~padded], _of_bits(words[~padded], form, 0)):
        raise not_understood("PixelPaddingValue", "lies outside of BitsStored, as other bits of the pixels do")
    return replace(form, bits=form.allocated, high=form.allocated - 1)


def _plain(dataset: Dataset, form: Form, syntax: UID, *, whole_words: bool) -> Dataset:
    """Return a data set with nothing but the pixels and their form."""
    plain = Dataset()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    plain.set_original_encoding(syntax == ImplicitVRLittleEndian, syntax.is_little_endian)
    plain.Rows, plain.Columns, plain.SamplesPerPixel = form.rows, form.columns, form.samples
    plain.PhotometricInterpretation = form.photometric
    if syntax in JPEG2000TransferSyntaxes and isinstance(value := dataset[form.keyword].value, bytes):
        if form.photometric.startswith("YBR_FULL") and has_colour_transform(value):
            plain.PhotometricInterpretation = "YBR_RCT"  # the decoder gives RGB, whatever the header says
        if not form.signed and is_signed(value):
            raise not_understood("PixelRepresentation", "says unsigned, and the JPEG 2000 pixels are signed")
    if form.frames > 1:
        plain.NumberOfFrames = form.frames
    if form.samples > 1:
        plain.PlanarConfiguration = whole_of(dataset, "PlanarConfiguration", 0, most=1)
    plain.BitsAllocated = form.allocated
    if not form.floats:
        plain.BitsStored = form.allocated if whole_words else form.bits
        plain.HighBit = plain.BitsStored - 1
        plain.PixelRepresentation = int(form.signed and not whole_words)
    for keyword in (form.keyword, *COPIED):
        if has(dataset, keyword):
            plain[keyword] = dataset[keyword]
    return plain
