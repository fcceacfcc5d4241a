"""DICOM objects in the answer of a DICOMweb server (WADO-RS): multipart/related (RFC 2046 and 2387), or the bare object.

Servers differ: quoted boundaries, a preamble, bare line feeds, no final boundary, no multipart at all. What is cut out is exactly
the object's bytes; an answer that may be incomplete is refused, because half an object must not pass for a whole one.
"""

import re
from collections.abc import Iterator
from email.message import Message

from salus.common.errors import UnreadableImage

DICOM, UNKNOWN = "application/dicom", "application/octet-stream"
MAX_BOUNDARY = 200  # RFC 2046 allows 70
MAX_PART_HEADER = 10_000
MAX_PARTS = 10_000
PREAMBLE, MAGIC = 128, b"DICM"
BLANK_LINE = re.compile(rb"\r?\n\r?\n")


def objects_in(data: bytes, content_type: str = "", *, whole: bool = True) -> list[bytes]:
    """Return the DICOM objects of an answer.

    Args:
        data: its body.
        content_type: its header.
        whole: whether the connection itself shows that the body is complete, so that a missing final boundary is harmless.

    Raises:
        UnreadableImage: there is no object in it, or it may be cut short.
    """
    kind, parameters = _media(content_type)
    if _is_object(data) and kind != "multipart/related":
        return [data]
    if not data:
        raise UnreadableImage("pacs", "the PACS sent an empty answer instead of an object")
    boundary = parameters.get("boundary", "").encode("latin-1", "replace") or _first_line(data)
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise UnreadableImage("pacs", f"the PACS sent {kind or 'an answer'} that holds no object")
    found = list(_parts(data, boundary, whole=whole))
    objects = [body for part, body in found if part == DICOM or (part in ("", UNKNOWN) and _is_object(body))]
    if not objects:
        raise UnreadableImage("pacs", "the PACS sent an answer of several parts, none of which is a DICOM object")
    return objects


def _is_object(data: bytes) -> bool:
    return data[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def _media(header: str) -> tuple[str, dict[str, str]]:
    """Return media type and parameters of a header, in lower case except for values."""
    message = Message()
    message["Content-Type"] = header[:1000].replace("\r", " ").replace("\n", " ")
    parameters = message.get_params(failobj=[], unquote=True)
    kind = parameters[0][0].strip().lower() if parameters else ""
    return kind, {name.strip().lower(): value for name, value in parameters[1:]}


def _first_line(data: bytes) -> bytes:
    """Return the boundary that an answer starts with, for servers that do not name it in the header."""
    line = data[: MAX_BOUNDARY + 10].lstrip(b"\r\n").split(b"\n", 1)[0].rstrip()
    return line[2:] if line.startswith(b"--") else b""


def _parts(data: bytes, boundary: bytes, *, whole: bool) -> Iterator[tuple[str, bytes]]:
    """Yield media type and body of each part."""
    line = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r?\n|\Z)")
    start = line.search(data)
    for _ in range(MAX_PARTS):
        if start is None or start[1]:
            return
        blank = BLANK_LINE.search(data, start.end(), start.end() + MAX_PART_HEADER)
        if blank is None:
            raise UnreadableImage("pacs", "the PACS sent a part without the blank line that ends its header")
        kind, length = _part_header(data[start.end() : blank.start()])
        if length is not None:
            if len(data) - blank.end() < length:
                raise UnreadableImage("pacs", "the PACS sent fewer bytes than it announced")
            end = line.search(data, blank.end() + length)
            yield kind, data[blank.end() : blank.end() + length]
        else:
            end = line.search(data, blank.end())
            if end is None and not whole:
                raise UnreadableImage("pacs", "the PACS sent an answer without its end")
            yield kind, data[blank.end() : end.start() if end else len(data)]
        start = end


def _part_header(text: bytes) -> tuple[str, int | None]:
    """Return media type and announced length of a part."""
    kind, length = "", None
    for line in text.decode("latin-1").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            kind = _media(value.strip())[0]
        if name.strip().lower() == "content-length" and value.strip().isascii() and value.strip().isdigit():
            length = int(value.strip()[:12])
    return kind, length
