"""A site neither trusts a coordinator's sizes nor its metadata, and goes on where a transfer stopped."""

import json
import ssl
from collections.abc import Callable, Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from salus.client.link_direct import PART_BYTES, DirectCalls, OlderCoordinator
from salus.client.link_guard import MAX_RESPONSE_BYTES
from salus.common.certificates import new_node_key
from salus.common.clock import SystemClock
from salus.common.errors import LinkError
from salus.common.link_signature import maced_body, public_bytes, session_key
from salus.common.progress import Progress
from salus.common.versions import PROTOCOL_HEADER

SPOKEN = {PROTOCOL_HEADER: "2"}
NAME = "ab" * 16
META = {"message": NAME, "type": "train", "run": "7", "node": "5", "group": "", "created": 1.0, "ttl": 60.0}
LIMIT = 1_000_000


def packed(meta: object, header: bytes = b"{}", blob: bytes = b"model") -> bytes:
    raw = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    return len(raw).to_bytes(4, "big") + raw + len(header).to_bytes(4, "big") + header + blob


class Whole(httpx.SyncByteStream):
    """A body that has not been read yet."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body


class Cut(httpx.SyncByteStream):
    """A body that ends early."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        raise httpx.ReadError("connection lost")


class Coordinator:
    """Answers hello, and everything else as it is told to; keeps the paths that were called."""

    def __init__(self, answer: Callable[[str, bytes], httpx.Response]) -> None:
        self._answer = answer
        self.paths: list[str] = []
        self.key = b""
        self.forget = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path.removeprefix("/v2/link/"), request.read()
        self.paths.append(path)
        if path == "hello":
            mine = X25519PrivateKey.generate()
            theirs = bytes.fromhex(json.loads(body)["key"])
            self.key = session_key(mine, theirs, site=theirs, coordinator=public_bytes(mine))
            self.forget = False
            greeting = {"node": "5", "session": "0" * 32, "key": public_bytes(mine).hex()}
            return httpx.Response(200, headers=SPOKEN, json=greeting)
        headers = {name.lower(): value for name, value in request.headers.items()}
        if self.forget or maced_body(self.key, "POST", request.url.path, headers, SystemClock().now()) is None:
            return httpx.Response(401, headers=SPOKEN)
        return self._answer(path, body)


def calls(handler: Callable[[httpx.Request], httpx.Response]) -> DirectCalls:
    made = DirectCalls("https://coordinator", ssl.create_default_context(), new_node_key(), SystemClock(), LIMIT)
    headers = made._client.headers
    made._client.close()
    made._client = httpx.Client(
        base_url="https://coordinator", transport=httpx.MockTransport(handler), headers=headers, follow_redirects=False
    )
    return made


def test_a_session_that_the_coordinator_has_forgotten_is_begun_again() -> None:
    coordinator = Coordinator(lambda path, body: httpx.Response(204, headers=SPOKEN))
    link = calls(coordinator)
    assert link.hello() == 5
    assert link.poll(Progress()) is None
    coordinator.forget = True
    assert link.poll(Progress()) is None
    assert coordinator.paths == ["hello", "poll", "poll", "hello", "poll"]


def test_a_transfer_that_is_interrupted_goes_on_where_it_stopped() -> None:
    whole = packed(META, blob=bytes(range(256)) * 100)

    def answer(path: str, body: bytes) -> httpx.Response:
        if path == "poll":
            return httpx.Response(200, headers=SPOKEN, stream=Cut([whole[:5000], whole[5000:9000]]))
        start = int(path.rpartition("/")[2])
        return httpx.Response(200, headers=SPOKEN, stream=Cut([whole[start : start + 9000]]))

    coordinator = Coordinator(answer)
    with pytest.raises(LinkError):  # it never arrives whole with this one: the end is lost each time
        calls(coordinator).poll(Progress())
    assert coordinator.paths[2:5] == [f"request/{NAME}/{start}" for start in (9000, 18000, len(whole))][:3]

    def later(path: str, body: bytes) -> httpx.Response:
        if path == "poll":
            return answer(path, body)
        return httpx.Response(200, headers=SPOKEN, stream=Whole(whole[int(path.rpartition("/")[2]) :]))

    delivery = calls(Coordinator(later)).poll(Progress())
    assert delivery is not None
    assert (delivery.meta.message, delivery.header, delivery.blob) == (NAME, b"{}", bytes(range(256)) * 100)


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"\xff\xff\xff\xff",
        packed(b"{"),
        packed({**META, "message": "../x"}),
        packed({**META, "run": 7}),
        packed({**META, "more": 1}),
        packed(b" " * 20_000),
        packed(META)[:-10] + b"\xff" * 10,
    ],
)
def test_what_is_not_a_request_is_refused(body: bytes) -> None:
    with pytest.raises(LinkError, match="does not know"):
        calls(Coordinator(lambda path, sent: httpx.Response(200, headers=SPOKEN, stream=Whole(body)))).poll(Progress())


def test_an_endless_request_is_cut() -> None:
    taken = 0

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 2**20
                yield bytes(2**20)

    with pytest.raises(LinkError, match="larger than|does not know"):
        calls(Coordinator(lambda path, body: httpx.Response(200, headers=SPOKEN, stream=Endless()))).poll(Progress())
    assert taken <= LIMIT + MAX_RESPONSE_BYTES + 2**21


def test_a_large_reply_goes_in_parts_and_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.link_direct.PART_BYTES", 1000)
    there = bytearray()
    fail = [False, True, False, False, False]

    def answer(path: str, body: bytes) -> httpx.Response:
        _, name, start, _ = path.split("/")
        assert (name, int(start)) == (NAME, len(there))
        assert len(body) <= 1000
        if fail.pop(0):
            raise httpx.ReadError("connection lost")
        there.extend(body)
        return httpx.Response(200, headers=SPOKEN, json={"received": len(there)})

    link = calls(Coordinator(answer))
    blob = bytes(range(250)) * 10
    with pytest.raises(LinkError):
        link.reply(NAME, b"{}", blob)
    assert link.reply(NAME, b"{}", blob)
    assert bytes(there) == (2).to_bytes(4, "big") + b"{}" + blob
    assert PART_BYTES > 1000


@pytest.mark.parametrize(("status", "stated"), [(404, "1"), (426, "1")])
def test_an_older_coordinator_is_recognised_and_nothing_else_is_taken_for_one(status: int, stated: str) -> None:
    with pytest.raises(OlderCoordinator):
        calls(lambda request: httpx.Response(status, headers={PROTOCOL_HEADER: stated})).hello()
    for other in ({}, {PROTOCOL_HEADER: "2"}):
        with pytest.raises(LinkError) as caught:
            calls(lambda request, other=other: httpx.Response(404, headers=other)).hello()  # type: ignore[misc]
        assert not isinstance(caught.value, OlderCoordinator)


@pytest.mark.parametrize("path", ["hello", "heartbeat"])
def test_an_answer_that_is_no_request_is_small_or_not_read(path: str) -> None:
    endless = Whole(b"[" + b"[]," * 2**20 + b"[]]")
    coordinator = Coordinator(lambda path, body: httpx.Response(200, headers=SPOKEN, stream=endless))

    def answer(request: httpx.Request) -> httpx.Response:
        hello = request.url.path.endswith("hello")
        return (
            httpx.Response(200, headers=SPOKEN, stream=endless) if hello and path == "hello" else coordinator(request)
        )

    link = calls(answer)
    with pytest.raises(LinkError, match="larger than 65536"):
        link.hello() if path == "hello" else link.heartbeat(Progress())
