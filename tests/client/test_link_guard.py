"""A coordinator's answer cannot fill a hospital's memory, nor lead the site to another machine."""

import httpx
import pytest
import zstandard

from salus.client.link_guard import MAX_RESPONSE_BYTES, ResponseGuard
from salus.common.errors import LinkError
from salus.common.versions import PROTOCOL, PROTOCOL_HEADER

SPOKEN = {PROTOCOL_HEADER: str(PROTOCOL)}


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
        transport=httpx.MockTransport(lambda request: response), event_hooks={"response": [ResponseGuard()]}
    ) as client:
        return client.post("https://coordinator/v1/fleet/pull-object")


def test_a_compressed_answer_is_refused_before_it_is_inflated() -> None:
    bomb = zstandard.compress(bytes(200 * 2**20))
    assert len(bomb) < 100_000
    for encoding in ("zstd", "gzip", "identity, zstd"):
        with pytest.raises(LinkError, match="compressed"):
            answer(httpx.Response(200, headers=SPOKEN | {"content-encoding": encoding}, stream=httpx.ByteStream(bomb)))


def test_an_endless_answer_is_cut() -> None:
    stream = Endless()
    with pytest.raises(LinkError, match="larger than"):
        answer(httpx.Response(200, headers=SPOKEN, stream=stream))
    assert stream.taken <= MAX_RESPONSE_BYTES + 2**20
    announced = httpx.Response(200, headers=SPOKEN | {"content-length": str(10**12)}, stream=Endless())
    with pytest.raises(LinkError, match="larger than"):
        answer(announced)


def test_a_redirection_is_not_followed() -> None:
    with pytest.raises(LinkError, match="redirect"):
        answer(httpx.Response(307, headers={"location": "http://169.254.169.254/"}))


def test_an_ordinary_answer_passes() -> None:
    assert answer(httpx.Response(200, headers=SPOKEN, content=b"x" * 1000)).content == b"x" * 1000


@pytest.mark.parametrize("status", [200, 426])
@pytest.mark.parametrize(
    ("stated", "too_old"), [(None, "the coordinator"), ("0", "the coordinator"), ("3", "this site")]
)
def test_a_coordinator_of_another_protocol_version_is_left(status: int, stated: str | None, too_old: str) -> None:
    headers = {} if stated is None else {PROTOCOL_HEADER: stated}
    with pytest.raises(LinkError, match=f"{too_old} is too old. Install the newest version"):
        answer(httpx.Response(status, headers=headers))


def test_an_error_page_of_a_proxy_is_not_called_an_old_coordinator() -> None:
    assert answer(httpx.Response(502, content=b"bad gateway")).status_code == 502
