"""Who may send a body to the port for sites, and how large: decided from a request's head, before the body is read.

Part of the link (`server/link.py`). The node key of a site on the roster must have signed method, path, time and the
hash of the body (`common/link_signature.py`), and the site must speak a version of the protocol that the coordinator
speaks, too. Anything else is refused at once and its connection is closed, so an unsigned body is never held in memory.
"""

import binascii
import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salus.common.clock import Clock
from salus.common.errors import LinkError
from salus.common.link_signature import NODE, SESSION, maced_body, signed_body
from salus.common.probe import MAX_PROBE_BYTES, PROBE
from salus.common.versions import OLDEST_HEADER, PROTOCOL, PROTOCOL_HEADER, check_protocol
from salus.server.link_clocks import WrongClocks
from salus.server.link_members import Member, Members
from salus.server.link_sessions import Sessions
from salus.server.probe import Probes

MAX_BODY_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB
MAX_TREE_BYTES = 4 * 2**20  # names of as many objects as a reply may have
MAX_CALL_BYTES = 64 * 2**10  # everything else: a node id, a name
MAX_POLL_BYTES = 8 * 2**10  # of version 2: the names of at most 64 requests, and what the site does
OTHER_VERSION = 426  # Upgrade Required
MOST_REPORTED = 10
FLEET = "/v1/fleet/"
FLEET_PROTOCOL = 1  # the version of the protocol that uses Flower's own routes
FLEET_LIMITS = {
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
Headers = dict[str, str]


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused."""

    status: int
    detail: str


@dataclass(frozen=True)
class Admitted:
    """A request whose head is signed: by whom, and the length and SHA-256 (hex) that its body must have."""

    member: Member
    length: int
    digest: str


UNSIGNED = Refusal(401, "The request is not signed by the node key of a site on the roster, or a clock is wrong")
OTHER_BODY = Refusal(401, "The body is not the one that was signed")
NOT_FOUND = Refusal(404, "Not found")
STOPS = Refusal(503, "The coordinator is stopping")


def headers_of(scope: Scope) -> Headers:
    """Return a request's headers as text."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class Gate:
    """Decides from a request's head alone.

    Args:
        mismatched: called with a protocol version that a caller states and that this side does not speak, once for each; 0
            for none. The caller is not known, because the version is checked before the signature.
        wrong_clock: called with a site and a sentence when its requests are refused because its clock differs.
    """

    def __init__(
        self,
        members: Members,
        clock: Clock,
        mismatched: Callable[[int], None] = lambda version: None,
        wrong_clock: Callable[[int, str], None] = lambda site, text: None,
    ) -> None:
        self._members, self._clock, self._mismatched = members, clock, mismatched
        self._reported: set[int] = set()
        self._wrong_clocks = WrongClocks(clock, wrong_clock)
        self.sessions = Sessions()

    def admit(self, scope: Scope, headers: Headers, limit: int | None, protocol: int) -> Admitted | Refusal:
        """Return who signed the request, or why it is refused.

        Args:
            limit: largest body in bytes of this path; None for a path that does not exist.
            protocol: version of the protocol that has this path.
        """
        length = _length(scope, headers, limit)
        if isinstance(length, Refusal):
            return length
        try:  # before the signature, whose form another version may have changed
            spoken = check_protocol(
                headers.get(PROTOCOL_HEADER, ""),
                headers.get(OLDEST_HEADER, ""),
                other="this site",
                me="the coordinator",
            )
        except LinkError as problem:
            self._report(headers)
            return Refusal(OTHER_VERSION, str(problem))
        if spoken < protocol:
            return NOT_FOUND
        session = self.sessions.find(headers[SESSION]) if SESSION in headers else None
        member = session.member if session else self._claimed(headers)
        if member is None:
            return UNSIGNED
        statement = scope["method"], scope["path"], headers, self._clock.now()
        digest = maced_body(session.key, *statement) if session else signed_body(member.key, *statement)
        if not digest and not session:  # after a refusal in a session, a site says hello
            self._wrong_clocks.look(member, scope["method"], scope["path"], headers)
        if not digest or not self._members.heard(scope, member):
            return UNSIGNED
        return Admitted(member, length, digest)

    def _claimed(self, headers: Headers) -> Member | None:
        """Return the member whose key the request states; its signature must still be checked."""
        if NODE in headers:
            return self._members.named(headers[NODE])
        try:
            return self._members.with_bytes(
                b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower(), ""), validate=True)
            )
        except binascii.Error:
            return None

    def _report(self, headers: Headers) -> None:
        """Report another version, at most `MOST_REPORTED` of them: anybody may send a request."""
        stated = headers.get(PROTOCOL_HEADER, "")
        version = int(stated) if re.fullmatch(r"[0-9]{1,6}", stated) else 0
        if version not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(version)
            self._mismatched(version)


def _length(scope: Scope, headers: Headers, limit: int | None) -> int | Refusal:
    if limit is None or scope["method"] != "POST" or scope["query_string"]:
        return NOT_FOUND
    if headers.get("content-encoding", "identity") != "identity" or "transfer-encoding" in headers:
        return Refusal(415, "Only a plain body of known length is accepted")
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > limit:
        return Refusal(413, f"The body has no length, or more than {limit} bytes")
    return int(length)


class SignedRequests:
    """The outermost layer of Flower's routes; passes on only whole, signed, bounded requests of members.

    Args:
        probes: answers `salus doctor`.
    """

    def __init__(self, app: ASGIApp, gate: Gate, probes: Probes | None = None) -> None:
        self._app, self._gate, self._probes = app, gate, probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = headers_of(scope)
        admitted = self._gate.admit(scope, headers, FLEET_LIMITS.get(scope["path"]), FLEET_PROTOCOL)
        if isinstance(admitted, Refusal):
            await refuse(send, admitted, FLEET_PROTOCOL)
            return
        body = await read_body(receive, admitted.length)
        if body is None:
            return  # the connection has ended
        if hashlib.sha256(body).hexdigest() != admitted.digest:
            await refuse(send, OTHER_BODY, FLEET_PROTOCOL)
            return
        if scope["path"] == PROBE and self._probes is not None:
            await _answer(_with_protocol(send), *self._probes.answer(admitted.member.pem.encode(), body))
            return
        await self._app(scope, _replay(body, receive), _with_protocol(send))


def stated(refusal: Refusal, protocol: int) -> int:
    """Return the version that a refusal states: the newest one if the caller's version is the reason."""
    return PROTOCOL if refusal.status == OTHER_VERSION else protocol


def _with_protocol(send: Send) -> Send:
    """Return a `send` that states the version of the protocol with every response."""

    async def stating(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (PROTOCOL_HEADER.encode(), str(FLEET_PROTOCOL).encode())]
            message = {**message, "headers": headers}
        await send(message)

    return stating


async def read_body(receive: Receive, length: int) -> bytes | None:
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


async def refuse(send: Send, refusal: Refusal, protocol: int) -> None:
    """Answer with a refusal and close the connection: the rest of the body is not read."""
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (PROTOCOL_HEADER.encode(), str(stated(refusal, protocol)).encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
