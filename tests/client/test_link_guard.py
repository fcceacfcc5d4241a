"""A coordinator's answer cannot fill a hospital's memory, nor lead the site to another machine."""

import httpx
import pytest
import zstandard

from salus.client.link_guard import MAX_RESPONSE_BYTES, check_response
from salus.common.errors import LinkError


class Endless(httpx.SyncByteStream):
    """Counts what is taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        while True:
            self.taken += 2**20
            yield bytes(2**20)


def answer(response: httpx.Response) -> httpx.Response:
    with httpx.Client(
        transport=httpx.MockTransport(lambda request: response), event_hooks={"response": [check_response]}
    ) as client:
        return client.post("https://coordinator/v1/fleet/pull-object")


def test_a_compressed_answer_is_refused_before_it_is_inflated() -> None:
    bomb = zstandard.compress(bytes(200 * 2**20))
    assert len(bomb) < 100_000
    for encoding in ("zstd", "gzip", "identity, zstd"):
        with pytest.raises(LinkError, match="compressed"):
            answer(httpx.Response(200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(bomb)))


def test_an_endless_answer_is_cut() -> None:
    stream = Endless()
    with pytest.raises(LinkError, match="larger than"):
        answer(httpx.Response(200, stream=stream))
    assert stream.taken <= MAX_RESPONSE_BYTES + 2**20
    announced = httpx.Response(200, headers={"content-length": str(10**12)}, stream=Endless())
    with pytest.raises(LinkError, match="larger than"):
        answer(announced)


def test_a_redirection_is_not_followed() -> None:
    with pytest.raises(LinkError, match="redirect"):
        answer(httpx.Response(307, headers={"location": "http://169.254.169.254/"}))


def test_an_ordinary_answer_passes() -> None:
    assert answer(httpx.Response(200, content=b"x" * 1000)).content == b"x" * 1000
