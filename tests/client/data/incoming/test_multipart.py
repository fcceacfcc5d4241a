"""Objects are cut out of a server's answer byte for byte, or the answer is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salus.client.data.incoming.multipart import objects_in
from salus.common.errors import UnreadableImage

BARE = bytes(128) + b"DICM" + b"rest\r\n--"
MULTIPART = 'multipart/related; type="application/dicom"; boundary='


def body(
    *parts: bytes,
    boundary: bytes = b"x",
    kind: bytes = b"application/dicom",
    line: bytes = b"\r\n",
    lengths: bool = False,
    final: bool = True,
    before: bytes = b"",
) -> bytes:
    text = before
    for part in parts:
        header = b"Content-Type: " + kind + line if kind else b"MIME-Version: 1.0" + line
        header += b"Content-Length: %d" % len(part) + line if lengths else b""
        text += line + b"--" + boundary + line + header + line + part
    return text + (line + b"--" + boundary + b"--" + line if final else b"")


@given(
    content=st.binary(max_size=300),
    boundary=st.from_regex(r"\A[0-9A-Za-z'()+_,./:=?-]{1,70}\Z"),
    named=st.booleans(),
    lengths=st.booleans(),
    final=st.booleans(),
    line=st.sampled_from([b"\r\n", b"\n"]),
    parts=st.integers(1, 3),
)
@example(b"A\r\n--y\r\nB", "x", True, False, True, b"\r\n", 1)
@example(b"\r\n--x--\r\n", "x", True, True, True, b"\r\n", 1)
def test_every_form_gives_exactly_the_objects_bytes(
    content: bytes, boundary: str, named: bool, lengths: bool, final: bool, line: bytes, parts: int
) -> None:
    mark = boundary.encode()
    if not lengths and (b"\n--" + mark) in b"\n" + content:
        return  # no form without a length can hold its own boundary
    if not lengths and content.endswith(b"\r"):
        return  # with bare line feeds, who can say whose carriage return it is
    data = body(*[content] * parts, boundary=mark, lengths=lengths, final=final, line=line)
    header = f'{MULTIPART}"{boundary}"' if named else "multipart/related"
    assert objects_in(data, header, whole=True) == [content] * parts


def test_one_object_without_any_multipart() -> None:
    for header in ("application/dicom", "application/octet-stream", "", "Application/DICOM; transfer-syntax=1.2"):
        assert objects_in(BARE, header) == [BARE]


def test_parts_of_other_kinds_are_passed_over() -> None:
    data = body(b"<warning/>", kind=b"text/xml", final=False) + body(b"OBJECT")
    assert objects_in(data, MULTIPART + "x") == [b"OBJECT"]
    assert objects_in(body(BARE, kind=b"application/octet-stream"), MULTIPART + "x") == [BARE]
    assert objects_in(body(BARE, kind=b""), MULTIPART + "x") == [BARE]
    with pytest.raises(UnreadableImage, match="none of which"):
        objects_in(body(b"raw pixels", kind=b"application/octet-stream"), MULTIPART + "x")


def test_a_preamble_and_blanks_behind_a_boundary_are_harmless() -> None:
    assert objects_in(body(b"A", before=b"This is a multipart message.\r\n"), MULTIPART + "x") == [b"A"]
    spaced = body(b"A").replace(b"--x\r\n", b"--x \t\r\n", 1)
    assert objects_in(spaced, MULTIPART + "x") == [b"A"]


def test_an_answer_that_may_be_incomplete_is_refused() -> None:
    for data in (body(b"A" * 50, final=False), body(b"A" * 50)[:-20]):
        with pytest.raises(UnreadableImage, match="without its end"):
            objects_in(data, MULTIPART + "x", whole=False)
    with pytest.raises(UnreadableImage, match="fewer bytes"):
        objects_in(body(b"A" * 50, lengths=True)[:-20], MULTIPART + "x")
    assert objects_in(body(b"A" * 50, final=False), MULTIPART + "x", whole=True) == [b"A" * 50]


def test_everything_else_is_refused() -> None:
    for bad in (b"", b"DICM", b"--", b"--x\r\n\r\nno end", b"--x" * 100 + b"\r\n\r\n\r\n", b"--x\r\nA: b", b"<html>"):
        for header in ("", "text/html", MULTIPART + "x", "multipart/related"):
            with pytest.raises(UnreadableImage):
                objects_in(bad, header)
