"""The transfer syntaxes that are decoded; every other one is refused by its name. `docs/data.md` shows this list."""

from typing import NamedTuple

from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from salus.common.errors import UnreadableImage


class Syntax(NamedTuple):
    """A transfer syntax that is decoded.

    Args:
        pip: the package that decodes it, as pip names it; empty for one that needs none.
        most_bits: of a stored value.
        how: in words, for the documentation.
    """

    uid: UID
    how: str
    pip: str = ""
    most_bits: int = 64


SYNTAXES = (
    Syntax(uid.ImplicitVRLittleEndian, "read; also where a file states no transfer syntax"),
    Syntax(uid.ExplicitVRLittleEndian, "read"),
    Syntax(uid.ExplicitVRBigEndian, "read"),
    Syntax(
        uid.DeflatedExplicitVRLittleEndian, "read, if it expands at most 200 times or to 64 MiB, and to 512 MiB at most"
    ),
    Syntax(uid.RLELossless, "decoded by pydicom"),
    Syntax(uid.JPEGBaseline8Bit, "decoded by Pillow", "pillow"),
    Syntax(uid.JPEGExtended12Bit, "decoded by Pillow, 8 bits only: 12 bits have no decoder here", "pillow", 8),
    Syntax(uid.JPEGLossless, "decoded by GDCM", "python-gdcm"),
    Syntax(uid.JPEGLosslessSV1, "decoded by GDCM", "python-gdcm"),
    Syntax(uid.JPEGLSLossless, "decoded by CharLS", "pyjpegls"),
    Syntax(uid.JPEGLSNearLossless, "decoded by CharLS", "pyjpegls"),
    Syntax(uid.JPEG2000Lossless, "decoded by OpenJPEG", "pylibjpeg-openjpeg"),
    Syntax(uid.JPEG2000, "decoded by OpenJPEG", "pylibjpeg-openjpeg"),
    Syntax(uid.HTJ2KLossless, "decoded by OpenJPEG", "pylibjpeg-openjpeg"),
    Syntax(uid.HTJ2KLosslessRPCL, "decoded by OpenJPEG", "pylibjpeg-openjpeg"),
    Syntax(uid.HTJ2K, "decoded by OpenJPEG", "pylibjpeg-openjpeg"),
)
START_OF_CODESTREAM, CODING_STYLE = b"\xff\x4f\xff\x51", b"\xff\x52"
SIGN_AND_DEPTH = 42  # bytes from the start of a codestream to those of its first component
MOST_MARKERS = 20  # before that of the coding style
_KNOWN = {syntax.uid: syntax for syntax in SYNTAXES}


def check_syntax(syntax: UID, bits: int) -> None:
    """Raise UnreadableImage, with the syntax's name, for one whose pixels cannot be decoded here.

    Args:
        bits: of a stored value.
    """
    known = _KNOWN.get(syntax)
    if known is None:
        name = "a private or unknown compression" if syntax.is_private or syntax.name == str(syntax) else syntax.name
        raise UnreadableImage("unsupported", f"TransferSyntaxUID: {name} is not supported")
    if bits > known.most_bits:
        raise UnreadableImage("unsupported", f"TransferSyntaxUID: {syntax.name} of {bits} bits has no decoder here")
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise UnreadableImage(
            "unsupported", f"TransferSyntaxUID: {syntax.name} needs a decoder; pip install {known.pip}"
        )


def has_colour_transform(data: bytes) -> bool:
    """Return whether JPEG 2000 pixels carry their own colour transform, which a decoder undoes (ISO 15444-1, A.6.1).

    Args:
        data: encapsulated; the first image in it counts.
    """
    place = data.find(START_OF_CODESTREAM) + 2
    if place < 2:
        return False
    for _ in range(MOST_MARKERS):
        marker, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == CODING_STYLE:
            return data[place + 8 : place + 9] == b"\x01"
        if len(marker) < 2 or length < 2:
            return False
        place += 2 + length
    return False


def is_signed(data: bytes) -> bool:
    """Return whether JPEG 2000 pixels, encapsulated, are signed (ISO 15444-1, A.5.1)."""
    place = data.find(START_OF_CODESTREAM)
    return place >= 0 and data[place + SIGN_AND_DEPTH : place + SIGN_AND_DEPTH + 1] >= b"\x80"
