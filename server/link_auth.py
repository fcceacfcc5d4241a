"""Who may send a body to the port for sites, and how large: decided from a request's head, before the body is read.

Part of the link (`server/link.py`). The node key of a site on the roster must have signed method, path, time and the
hash of the body (`common/link_signature.py`), and the site must speak the same version of the protocol. Anything else
is refused at once and its connection is closed, so an unsigned body is never held in memory.
"""

import binascii
import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salus.common.clock import Clock
from salus.common.errors import LinkError
from salus.common.link_signature import signed_body
from salus.common.probe import MAX_PROBE_BYTES, PROBE
from salus.common.versions import PROTOCOL, PROTOCOL_HEADER, check_protocol
from salus.server.probe import Probes

MAX_BODY_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB
MAX_TREE_BYTES = 4 * 2**20  # names of as many objects as a reply may have
MAX_CALL_BYTES = 64 * 2**10  # everything else: a node id, a name
OTHER_VERSION = 426  # Upgrade Required
MOST_REPORTED = 10
FLEET = "/v1/fleet/"
BODY_LIMITS = {
    FLEET + "activate-node": MAX_CALL_BYTES,
    FLEET + "deactivate-node": MAX_CALL_BYTES,
    FLEET + "send-node-heartbeat": MAX_CALL_BYTES,
    FLEET + "pull-messages": MAX_CALL_BYTES,
    FLEET + "pull-object": MAX_CALL_BYTES,
    FLEET + "confirm-message-received": MAX_CALL_BYTES,
    FLEET + "push-messages": MAX_TREE_BYTES,
    FLEET + "push-object": MAX_BODY_BYTES,
    PROBE: MAX_PROBE_BYTES,
}


class SignedRequests:
    """The outermost layer of the app; passes on only whole, signed, bounded requests of nodes on the roster.

    Args:
        node_keys: PEM public keys of the roster's nodes.
        mismatched: called with a protocol version that a caller states and that is not ours, once for each; 0 for none. The
            caller is not known, because the version is checked before the signature.
        probes: answers `salus doctor`.
    """

    def __init__(
        self,
        app: ASGIApp,
        node_keys: Iterable[str],
        clock: Clock,
        mismatched: Callable[[int], None] = lambda version: None,
        probes: Probes | None = None,
    ) -> None:
        self._app, self._mismatched = app, mismatched
        self._probes = probes or Probes(clock.now, clock.monotonic_s, lambda: 0)
        self._reported: set[int] = set()
        self._clock = clock
        self._keys: dict[bytes, ec.EllipticCurvePublicKey] = {}
        for pem in node_keys:
            key = serialization.load_pem_public_key(pem.encode())
            assert isinstance(key, ec.EllipticCurvePublicKey)  # Safe because the roster's model checked it.
            self._keys[public_key_to_bytes(key)] = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        send = _with_protocol(send)
        refused = _refused(scope, headers)
        digest = None if refused else self._digest(scope, headers)
        if refused is None and digest is None:
            refused = 401, "The request is not signed by the node key of a site on the roster, or a clock is wrong"
        body = None if refused else await _read(receive, int(headers["content-length"]))
        if refused is None and body is None:
            return  # the connection has ended
        if body is not None and hashlib.sha256(body).hexdigest() != digest:
            refused = 401, "The body is not the one that was signed"
        if refused is not None:
            self._report(refused[0], headers)
            await _refuse(send, *refused)
            return
        assert body is not None  # Safe because every other case has returned.
        if scope["path"] == PROBE:
            status, answer = self._probes.answer(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.lower()].encode(), body)
            await _answer(send, status, answer)
            return
        await self._app(scope, _replay(body, receive), send)

    def _report(self, status: int, headers: dict[str, str]) -> None:
        """Report another version, at most `MOST_REPORTED` of them: anybody may send a request."""
        stated = headers.get(PROTOCOL_HEADER, "")
        version = int(stated) if re.fullmatch(r"[0-9]{1,6}", stated) else 0
        if status == OTHER_VERSION and version not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(version)
            self._mismatched(version)

    def _digest(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Return the hash that the body must have, or None for a request that no node of the roster has signed."""
        try:
            claimed = b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower(), ""), validate=True)
        except binascii.Error:
            return None
        key = self._keys.get(claimed)
        if key is None:
            return None
        return signed_body(key, scope["method"], scope["path"], headers, self._clock.now())


def _refused(scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
    """Return status and reason for a request that must be refused because of its head."""
    limit = BODY_LIMITS.get(scope["path"])
    if limit is None or scope["method"] != "POST" or scope["query_string"]:
        return 404, "Not found"
    if headers.get("content-encoding", "identity") != "identity" or "transfer-encoding" in headers:
        return 415, "Only a plain body of known length is accepted"
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > limit:
        return 413, f"The body has no length, or more than {limit} bytes"
    try:  # before the signature, whose form another version may have changed
        check_protocol(headers.get(PROTOCOL_HEADER, ""), other="this site", me="the coordinator")
    except LinkError as problem:
        return OTHER_VERSION, str(problem)
    return None


def _with_protocol(send: Send) -> Send:
    """Return a `send` that states this side's version of the protocol with every response."""

    async def stating(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (PROTOCOL_HEADER.encode(), str(PROTOCOL).encode())]
            message = {**message, "headers": headers}
        await send(message)

    return stating


async def _read(receive: Receive, length: int) -> bytes | None:
    """Return the whole body, or None if the connection ends before; h11 lets through no more than `length` bytes."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False) and len(body) <= length
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns the body once, then the messages of the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
