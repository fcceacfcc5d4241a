"""Every field of a request and of a reply is bounded; a site's refusal always fits."""

import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.canonical import canonical_json
from salus.common.errors import Refused, WireError
from salus.common.packets import (
    MAX_HEADER_BYTES,
    MAX_REPLY_BYTES,
    MAX_TEXT,
    Reply,
    Request,
    header_of,
    pack,
    refusal,
    release,
    reply_of,
    request_of,
    unpack_reply,
    unpack_request,
)

LONG = "a" * 900_000


def forged(kind: type[Request] | type[Reply], **fields: object) -> bytes:
    base = {"kind": "hello" if kind is Request else "ok", "nonce": "0" * 32}
    return canonical_json({**base, **fields})


def content(header: bytes) -> object:
    record = pack(Request(kind="hello"))
    record.config_records["salus"]["header"] = header
    return record


@pytest.mark.parametrize(
    "fields",
    [
        {"job_id": LONG},
        {"job_id": "../../etc/passwd"},
        {"job_id": "a\x1b]52;c;x\x07"},
        {"job_id": "Upper"},
        {"round": 10**12},
        {"round": -1},
        {"attempt": 10**9},
        {"sites": list(range(1, 10_002))},
        {"sites": [0]},
        {"sites": [10**9]},
        {LONG: 1},
    ],
    ids=lambda fields: f"{next(iter(fields))[:10]}={str(next(iter(fields.values())))[:16]!r}",
)
def test_a_request_with_an_oversized_or_odd_field_is_refused_in_few_words(fields: dict[str, object]) -> None:
    with pytest.raises(WireError) as caught:
        unpack_request(content(forged(Request, **fields)))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "fields",
    [{"text": LONG}, {"text": "\x1b[31m"}, {"text": "two\nlines"}, {"error": LONG}, {"error": "a b"}, {"site": -1}],
)
def test_a_reply_with_an_oversized_or_odd_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(WireError) as caught:
        unpack_reply(content(forged(Reply, **fields)))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1000


@given(st.text(st.characters(exclude_categories=()), max_size=3 * MAX_TEXT))
def test_whatever_a_site_has_to_say_its_refusal_can_be_read(text: str) -> None:
    reply = refusal(3, Refused(text, remedy=""), text)
    header, _ = unpack_reply(pack(reply))
    assert header == reply
    assert header.error == "Refused"
    assert len(header.text) == min(len(text), MAX_TEXT)


def test_an_ordinary_request_is_accepted() -> None:
    request = Request(kind="train", job_id="a" * 63 + "-0001", round=10_000, attempt=7, sites=tuple(range(1, 200)))
    assert unpack_request(pack(request, b"blob")) == (request, b"blob")


def test_a_released_packet_is_free_at_once_although_flowers_records_refer_to_themselves() -> None:

    made = pack(Request(kind="hello"), b"x" * 1000)
    array = weakref.ref(made.array_records["blob"]["0"])
    gc.disable()
    try:
        release(made)
        assert array() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("read", [request_of, reply_of])
def test_a_header_of_many_small_values_is_refused_before_it_becomes_objects(
    read: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salus.common.packets.json.loads", lambda raw: pytest.fail("it was parsed"))
    with pytest.raises(WireError, match="at most"):
        read(b"[" + b"[]," * MAX_HEADER_BYTES + b"[]]")


def test_the_longest_honest_reply_fits_and_a_longer_header_is_not_parsed() -> None:
    longest = refusal(10_000, Refused("", remedy=""), "\U0001f600" * MAX_TEXT)
    assert reply_of(header_of(longest)) == longest
    assert reply_of(header_of(refusal(1, Refused("", remedy=""), '"' * MAX_TEXT))).text == '"' * MAX_TEXT
    for size, match in (MAX_REPLY_BYTES, "JSON"), (MAX_REPLY_BYTES + 1, f"at most {MAX_REPLY_BYTES} bytes"):
        with pytest.raises(WireError, match=match):
            reply_of(b"[" * size)
