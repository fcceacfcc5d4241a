"""Nothing is read of a request that no node of the roster has signed, and nothing but the signed body is handed on."""

import asyncio
import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from salus.common.certificates import new_node_key, public_pem
from salus.common.clock import ManualClock
from salus.common.link_signature import TOLERANCE_S, sign_request
from salus.common.versions import PROTOCOL, PROTOCOL_HEADER
from salus.server.link_auth import MAX_BODY_BYTES, MOST_REPORTED, Admitted, Gate, SignedRequests
from salus.server.link_clocks import TELL_EVERY_S
from salus.server.link_members import Members

KEY, OTHER = new_node_key(), new_node_key()
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PATH = "/v1/fleet/push-object"
BODY = b"the body that was signed"


def gate(mismatched: Callable[[int], None] = lambda version: None) -> Gate:
    return Gate(Members(node_keys={1: public_pem(KEY)}), ManualClock(NOW), mismatched)


class Reached(Exception):
    """The body of a refused request was asked for."""


def head(body: bytes = BODY, path: str = PATH, now: datetime = NOW, key=KEY, claimed=KEY) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {
        **sign_request(key, "POST", path, body, now),
        FLEET_HTTP_PUBLIC_KEY_HEADER.lower(): b64encode(public_key_to_bytes(claimed.public_key())).decode(),
        "content-length": str(len(body)),
        PROTOCOL_HEADER: str(PROTOCOL),
    }


def call(
    headers: dict[str, str], body: bytes | None, path: str = PATH, method: str = "POST"
) -> tuple[int, bytes | None]:
    """Return the status and the body that the inner app got; `body` None: reading it fails the test."""
    got: list[bytes] = []
    sent: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        got.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = [] if body is None else [body[i : i + 10] for i in range(0, len(body), 10)] or [b""]

    async def receive() -> Message:
        if not parts:
            raise Reached
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
    app = SignedRequests(inner, gate())
    asyncio.run(app(scope, receive, send))
    if sent[0]["status"] != 200:
        assert (b"connection", b"close") in sent[0]["headers"]
    return sent[0]["status"], got[0] if got else None


def test_a_signed_request_is_handed_on_whole() -> None:
    assert call(head(), BODY) == (200, BODY)
    assert call(head(b""), b"") == (200, b"")


def test_a_site_of_another_protocol_version_is_refused_and_told_before_its_signature_is_checked() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        raise Reached

    async def receive() -> Message:
        raise Reached

    for stated, too_old in (
        (None, "this site"),
        ("0", "this site"),
        ("x" * 500, "this site"),
        ("99", "the coordinator"),
    ):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        headers = {**head(), "salus-signature": "in the form of another version", PROTOCOL_HEADER: stated}
        raw = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": raw}
        asyncio.run(SignedRequests(inner, gate())(scope, receive, send))
        assert sent[0]["status"] == 426
        assert (PROTOCOL_HEADER.encode(), str(PROTOCOL).encode()) in sent[0]["headers"]
        assert f"{too_old} is too old" in json.loads(sent[1]["body"])["detail"]


def test_another_version_is_reported_once_and_no_caller_can_fill_the_log() -> None:
    told: list[int] = []
    app = SignedRequests(_nobody, gate(told.append))

    async def send(message: Message) -> None:
        pass

    for stated in ("99", "99", str(PROTOCOL), "", *map(str, range(100, 200))):
        headers = {**head(), PROTOCOL_HEADER: stated}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": raw}
        asyncio.run(app(scope, _nothing, send))
    assert told[:3] == [99, 0, 100]
    assert len(told) == MOST_REPORTED


async def _nobody(*_: object) -> None:
    raise AssertionError


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def changed(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in {**head(), **values}.items() if value is not None}


REFUSED_UNREAD = {
    "no signature": (changed(**{"salus-signature": None}), 401),
    "a signature that is not base64": (changed(**{"salus-signature": "%%%"}), 401),
    "an endless signature": (changed(**{"salus-signature": "A" * 100_000}), 401),
    "no key": (changed(**{FLEET_HTTP_PUBLIC_KEY_HEADER.lower(): None}), 401),
    "another key in front of the roster's": (head(claimed=OTHER), 401),
    "a key that is not on the roster": (head(key=OTHER, claimed=OTHER), 401),
    "a stranger's signature under a roster key": (head(key=OTHER), 401),
    "signed for another route": (head(path="/v1/fleet/pull-object"), 401),
    "signed too long ago": (head(now=NOW - timedelta(seconds=TOLERANCE_S + 1)), 401),
    "signed in the future": (head(now=NOW + timedelta(seconds=TOLERANCE_S + 1)), 401),
    "a time without a zone": (changed(**{"salus-time": "2026-05-01T12:00:00"}), 401),
    "another hash": (changed(**{"salus-body": hashlib.sha256(b"x").hexdigest()}), 401),
    "no length": (changed(**{"content-length": None}), 413),
    "too long": (changed(**{"content-length": str(MAX_BODY_BYTES + 1)}), 413),
    "a length of many digits": (changed(**{"content-length": "9" * 5000}), 413),
    "chunked": (changed(**{"transfer-encoding": "chunked"}), 415),
    "compressed": (changed(**{"content-encoding": "zstd"}), 415),
}


@pytest.mark.parametrize("case", REFUSED_UNREAD)
def test_what_nobody_vouches_for_is_refused_before_its_body_is_read(case: str) -> None:
    headers, status = REFUSED_UNREAD[case]
    assert call(headers, None) == (status, None)


def test_other_routes_and_methods_do_not_exist() -> None:
    for path in ("/", "/v1/control/list-runs", "/v1/fleet/register-node", "/v1/fleet/get-fab", "/docs"):
        assert call(head(path=path), None, path=path)[0] == 404
    assert call(head(), None, method="GET")[0] == 404


def test_small_calls_have_small_bodies() -> None:
    body = b"x" * 100_000
    assert call(head(body, "/v1/fleet/pull-messages"), None, path="/v1/fleet/pull-messages")[0] == 413


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_another_body_than_the_signed_one_is_refused(place: int, change: int) -> None:
    forged = bytearray(BODY)
    forged[place] ^= change
    assert call(head(), bytes(forged)) == (401, None)


def test_a_connection_that_ends_within_the_body_reaches_nobody() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def nobody(*_: object) -> None:
        raise AssertionError

    raw = [(name.encode(), value.encode()) for name, value in head().items()]
    scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": raw}
    asyncio.run(SignedRequests(nobody, gate())(scope, gone, nobody))


def test_a_wrong_clock_is_told_once_an_hour_and_nobody_else_can_accuse_a_site() -> None:
    clock, told = ManualClock(NOW), list[str]()
    asked = Gate(Members(node_keys={1: public_pem(KEY)}), clock, wrong_clock=lambda site, text: told.append(text))
    scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": []}

    def call(ahead: timedelta, **changes: object) -> bool:
        headers = head(now=clock.now() + ahead, **changes)  # type: ignore[arg-type]
        return isinstance(asked.admit(scope, headers, MAX_BODY_BYTES, 1), Admitted)

    assert call(timedelta(seconds=TOLERANCE_S - 1))
    assert not call(timedelta(days=1), key=OTHER)
    assert not told
    for _ in range(3):
        assert not call(timedelta(hours=-1))
    assert [text.partition("this machine's")[0] for text in told] == ["The clock of site 1 is 1:00:00 behind "]
    clock.sleep(TELL_EVERY_S)
    assert not call(timedelta(days=1))
    assert "1 day, 0:00:00 ahead of" in told[1]
