"""Version 2 of the protocol: a small set of plain routes over the coordinator's mailbox, without a web framework.

Part of the link (`server/link.py`). Each request is signed (`server/link_auth.py`), the first one with the node key, and that
is the only statement of who calls: no call names its own node. All bodies are bounded before they are read.

    POST /v2/link/hello            key               a site is there; answered with its node and the session's key half
    POST /v2/link/poll             held, progress    waits for a request; answered with one whole request, or nothing
    POST /v2/link/request/ID/FROM                    the rest of a request whose transfer was interrupted
    POST /v2/link/reply/ID/FROM/OF part              a reply, or a part of a large one; answered with the bytes that are there
    POST /v2/link/heartbeat        progress          a site is still working
    POST /v2/link/bye                                a site stops

    a request    length, metadata (JSON), length, header, blob       lengths are 4 bytes, big-endian
    a reply      length, header, blob
"""

import asyncio
import contextlib
import hashlib
import json
import re
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field
from starlette.types import Receive, Scope, Send

from salus.common.link_signature import public_bytes, session_key
from salus.common.progress import Progress
from salus.common.strict import Strict
from salus.common.versions import PROTOCOL_HEADER
from salus.server.link_auth import (
    MAX_POLL_BYTES,
    NOT_FOUND,
    OTHER_BODY,
    STOPS,
    Admitted,
    Gate,
    Refusal,
    headers_of,
    read_body,
    refuse,
)
from salus.server.link_mail import Incoming, Letter, Mailbox
from salus.server.link_members import Member

DIRECT = "/v2/link/"
DIRECT_PROTOCOL = 2
LONG_POLL_S = 20.0  # below the client's 30 s read time-out and the usual limits of proxies
PART_BYTES = 16 * 2**20  # largest part of a reply in one request: few round trips, and little to repeat after a fault
MAX_HELD = 64
_STATED = (PROTOCOL_HEADER.encode(), str(DIRECT_PROTOCOL).encode())
_REQUEST = re.compile(r"request/([0-9a-f]{32}|[0-9a-f]{64})/(0|[1-9][0-9]{0,14})")
_REPLY = re.compile(r"reply/([0-9a-f]{32}|[0-9a-f]{64})/(0|[1-9][0-9]{0,14})/([1-9][0-9]{0,14})")
GONE = Refusal(410, "This request is no longer open, or it is another site's")
MISSING = Refusal(409, "Parts in front of this one are missing")
TOO_LARGE = Refusal(413, "The reply is larger than allowed")
NO_SPACE = Refusal(507, "The coordinator cannot store the reply; its operator has been told")


class Hello(Strict):
    """The body of a hello: the site's half of the session key."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Poll(Strict):
    """The body of a poll: which requests the site holds, and what it does."""

    held: Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")], ...], Field(max_length=MAX_HELD)] = ()
    progress: Progress = Progress()


class DirectRoutes:
    """The ASGI app of these routes."""

    def __init__(self, gate: Gate, mail: Mailbox, long_poll_s: float = LONG_POLL_S) -> None:
        self._gate, self._mail, self._long_poll_s = gate, mail, long_poll_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["path"].removeprefix(DIRECT)
        reply, rest = _REPLY.fullmatch(call), _REQUEST.fullmatch(call)
        limit = PART_BYTES if reply else MAX_POLL_BYTES if rest or call in _CALLS else None
        admitted = self._gate.admit(scope, headers_of(scope), limit, DIRECT_PROTOCOL)
        if isinstance(admitted, Refusal):
            await refuse(send, admitted, DIRECT_PROTOCOL)
            return
        if reply:
            await self._reply(admitted, reply[1], int(reply[2]), int(reply[3]), receive, send)
            return
        body = await read_body(receive, admitted.length)
        if body is None:
            return  # the connection has ended
        if hashlib.sha256(body).hexdigest() != admitted.digest:
            await refuse(send, OTHER_BODY, DIRECT_PROTOCOL)
        elif rest:
            letter = self._mail.find(admitted.member.node, rest[1])
            await (_send_letter(send, letter, int(rest[2])) if letter else refuse(send, GONE, DIRECT_PROTOCOL))
        elif call == "hello":
            await self._hello(admitted.member, body, send)
        else:
            await self._call(call, admitted.member.node, body, receive, send)

    async def _hello(self, member: Member, body: bytes, send: Send) -> None:
        """Agree on a session key; the key of the node has signed the site's half."""
        try:
            theirs = bytes.fromhex(Hello.model_validate_json(body).key)
            mine = X25519PrivateKey.generate()
            key = session_key(mine, theirs, site=theirs, coordinator=public_bytes(mine))
        except ValueError:
            await refuse(send, Refusal(400, "Expected a key of 32 bytes"), DIRECT_PROTOCOL)
            return
        self._mail.heard(member.node)
        answer = {
            "node": str(member.node),
            "session": self._gate.sessions.open(member, key),
            "key": public_bytes(mine).hex(),
        }
        await _answer(send, json.dumps(answer).encode())

    async def _call(self, call: str, node: int, body: bytes, receive: Receive, send: Send) -> None:
        try:
            poll = Poll.model_validate_json(body)
        except ValueError:  # not JSON, or not as expected
            await refuse(send, Refusal(400, "Expected what the site holds and what it does"), DIRECT_PROTOCOL)
            return
        if call == "bye":
            self._mail.forget_site(node)
        else:
            self._mail.heard(node, poll.progress)
        if call == "poll":
            letter = await self._wait(node, poll.held, receive)
            if self._mail.closed:
                await refuse(send, STOPS, DIRECT_PROTOCOL)
            elif letter is not None:
                await _send_letter(send, letter, 0)
            else:
                await send({"type": "http.response.start", "status": 204, "headers": [_STATED]})
                await send({"type": "http.response.body", "body": b""})
            return
        await _answer(send, json.dumps({"node": str(node)}).encode())

    async def _wait(self, node: int, held: tuple[str, ...], receive: Receive) -> Letter | None:
        """Wait until there is a request for the site, its connection ends, or a newer poll of it begins."""
        event = self._mail.waiter(node)
        gone: asyncio.Task[object] | None = None
        try:
            letter = self._mail.take(node, held)
            if letter is not None or not self._long_poll_s:
                return letter
            gone = asyncio.ensure_future(receive())
            rung = asyncio.ensure_future(event.wait())
            await asyncio.wait({gone, rung}, timeout=self._long_poll_s, return_when=asyncio.FIRST_COMPLETED)
            rung.cancel()
            if gone.done() or not self._mail.is_newest(node, event):
                return None
            return self._mail.take(node, held)
        finally:
            if gone is not None:
                gone.cancel()
            self._mail.leave(node, event)

    async def _reply(
        self, admitted: Admitted, identifier: str, offset: int, total: int, receive: Receive, send: Send
    ) -> None:
        """Take a part of a reply; only a part whose hash is the signed one counts."""
        node = admitted.member.node
        letter = self._mail.find(node, identifier)
        self._mail.heard(node, Progress(request=identifier, step="sending", percent=min(100, 100 * offset // total)))
        refused: Refusal | None = None
        incoming: Incoming | None = None
        if letter is None:
            refused = GONE
        elif total > letter.budget or offset + admitted.length > total or not admitted.length:
            refused = TOO_LARGE
        elif not letter.answered:
            with contextlib.suppress(OSError):
                incoming = self._mail.incoming(letter, offset, total)
                refused = None if incoming else MISSING
            refused = refused or (None if incoming else NO_SPACE)
        if refused is not None:
            await refuse(send, refused, DIRECT_PROTOCOL)
            return
        assert letter is not None  # Safe because None was refused above.
        if incoming is None:  # answered before; the answer to that was lost
            await _drained(receive)
            await _answer(send, json.dumps({"received": total}).encode())
            return
        refused = await _store(incoming, admitted, offset, receive)
        if refused is not None:
            await refuse(send, refused, DIRECT_PROTOCOL)
            return
        if incoming.received == total:
            self._mail.complete(letter)
        await _answer(send, json.dumps({"received": incoming.received}).encode())


_CALLS = frozenset({"hello", "poll", "heartbeat", "bye"})


async def _store(incoming: Incoming, admitted: Admitted, offset: int, receive: Receive) -> Refusal | None:
    """Write a part where it belongs while it arrives; return why it does not count."""
    mine = incoming.writer = object()
    seen, hashed = 0, hashlib.sha256()
    more = True
    try:
        while more:
            message = await receive()
            if message["type"] != "http.request" or incoming.writer is not mine:
                return GONE  # the connection has ended, or the site sends this part once more on another one
            part = message.get("body", b"")
            hashed.update(part)
            incoming.write(offset + seen, part)
            seen += len(part)
            more = message.get("more_body", False) and seen <= admitted.length
    except (OSError, ValueError):  # the disk is full, or the reply was dropped meanwhile
        return NO_SPACE
    if seen != admitted.length or hashed.hexdigest() != admitted.digest:
        return OTHER_BODY
    incoming.received = offset + seen
    return None


async def _drained(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
        pass


async def _send_letter(send: Send, letter: Letter, offset: int) -> None:
    prefix = letter.prefix()
    size = len(prefix) + len(letter.blob) - offset
    if size < 0:
        await refuse(send, NOT_FOUND, DIRECT_PROTOCOL)
        return
    headers = [(b"content-length", str(size).encode()), _STATED]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in letter.slices(prefix, offset):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), _STATED]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
