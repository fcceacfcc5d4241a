"""The site's end of version 2 of the protocol: plain signed requests, see `server/link_direct.py` for the routes.

Part of the link (`client/link.py`). No Flower is needed here: a request is metadata, a header and a blob of bytes.
"""

import json
import ssl
import threading
from dataclasses import dataclass
from typing import Annotated

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field

from salus.client.link_guard import CALL_TIMEOUT_S, MAX_RESPONSE_BYTES, ResponseGuard, translated
from salus.common.clock import Clock
from salus.common.errors import LinkError, WireError
from salus.common.link_signature import NODE, fingerprint, mac_request, public_bytes, session_key, sign_request
from salus.common.progress import Progress
from salus.common.strict import Strict, validate
from salus.common.versions import OLDEST_HEADER, OLDEST_PROTOCOL, PROTOCOL_HEADER

DIRECT = "/v2/link/"
DIRECT_PROTOCOL = 2
NUMBER = 4
MAX_META_BYTES = 10_000
MAX_ANSWER_BYTES = (
    64 * 2**10
)  # of everything but a request; it is parsed as JSON, which takes up to eighty times as much memory
PART_BYTES = 16 * 2**20  # of a reply in one request, as in `server/link_direct.py`
RESUMES = 20  # interruptions of one transfer, each after at least one byte has arrived
KEEP_ALIVE_S = 50.0  # below the coordinator's 60 s: a new TLS handshake costs more than everything else


class Meta(Strict):
    """The metadata of a request."""

    message: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$|^[0-9a-f]{64}$")]
    type: Annotated[str, Field(pattern=r"^[a-z._-]{1,64}$")]
    run: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
    node: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
    group: Annotated[str, Field(max_length=256)]
    created: float
    ttl: float


class Greeting(Strict):
    """The coordinator's answer to a hello."""

    node: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OlderCoordinator(LinkError):
    """The coordinator speaks version 1 only."""


@dataclass(frozen=True)
class Delivery:
    """One request of the coordinator: its metadata, and header and blob as bytes that nothing has parsed yet."""

    meta: Meta
    header: bytes
    blob: bytes


class DirectCalls:
    """The calls of version 2; arguments and errors as in `FleetLink`."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        node_key: ec.EllipticCurvePrivateKey,
        clock: Clock,
        max_message_bytes: int,
    ) -> None:
        self._key, self._clock = node_key, clock
        self._guard = ResponseGuard()
        self._largest = max_message_bytes + MAX_RESPONSE_BYTES
        self._client = self._open(url, tls)
        self._session: tuple[str, bytes] | None = None
        self._held: dict[str, None] = {}
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        self.waiting = False

    def _open(self, url: str, tls: ssl.SSLContext) -> httpx.Client:
        return httpx.Client(
            base_url=url,
            verify=tls,
            timeout=CALL_TIMEOUT_S,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=KEEP_ALIVE_S),
            headers={
                "accept-encoding": "identity",
                PROTOCOL_HEADER: str(DIRECT_PROTOCOL),
                OLDEST_HEADER: str(OLDEST_PROTOCOL),
                NODE: fingerprint(self._key.public_key()),
            },
        )

    def renew(self, url: str, tls: ssl.SSLContext) -> None:
        """Use another context for all connections from now on; the session and the requests that are held stay."""
        before, self._client = self._client, self._open(url, tls)
        before.close()

    def hello(self) -> int:
        """Say that this site is there, agree on a session key, and return this site's node.

        Raises:
            OlderCoordinator: the coordinator has no such call, because it speaks version 1 of the protocol only.
        """
        mine = X25519PrivateKey.generate()
        half = public_bytes(mine)
        body = json.dumps({"key": half.hex()}).encode()
        signed = sign_request(self._key, "POST", DIRECT + "hello", body, self._clock.now())
        with translated():
            response = self._client.send(self._request("hello", body, signed), stream=True)
            try:
                ResponseGuard(MAX_ANSWER_BYTES)(response)
                response.read()
            finally:
                response.close()
            older = response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.UPGRADE_REQUIRED)
            if older and response.headers.get(PROTOCOL_HEADER) == "1":
                raise OlderCoordinator("The coordinator speaks version 1 of the protocol.", remedy="Upgrade it.")
            response.raise_for_status()
        try:
            found = validate(Greeting, response.json(), error=WireError, what="answer", received=True)
            theirs = bytes.fromhex(found.key)
            key = session_key(mine, theirs, site=half, coordinator=theirs)
        except (WireError, ValueError, RecursionError):
            raise _strange() from None
        self._session = found.session, key
        return int(found.node)

    def heartbeat(self, progress: Progress) -> None:
        """Say that this site is there, and what it does."""
        self._call("heartbeat", {"progress": progress.model_dump()})

    def bye(self) -> None:
        """Sign off."""
        self._call("bye")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def poll(self, progress: Progress) -> Delivery | None:
        """Wait for one request; None if there was none."""
        with self._lock:
            held = tuple(self._held)
        body = json.dumps({"held": held, "progress": progress.model_dump()}).encode()
        self.waiting = True
        try:
            whole = self._fetch(body)
        finally:
            self.waiting = False
        if whole is None:
            return None
        delivery = _parsed(whole)
        with self._lock:
            self._held[delivery.meta.message] = None
            self._sent.pop(delivery.meta.message, None)  # a reply to it that was begun is not this one
        return delivery

    def reply(self, identifier: str, header: bytes, blob: bytes) -> bool:
        """Send a reply; return False if the coordinator no longer wants it. After an error, it goes on where it stopped."""
        prefix = len(header).to_bytes(NUMBER, "big") + header
        total, there = len(prefix) + len(blob), self._sent.get(identifier, 0)
        view = memoryview(blob)
        wanted = True
        while there < total and wanted:
            begin = max(0, there - len(prefix))
            part = prefix[there:] + bytes(view[begin : begin + PART_BYTES - len(prefix[there:])])
            with translated():
                response = self._post(f"reply/{identifier}/{there}/{total}", part)
                if response.status_code == httpx.codes.CONFLICT and there:
                    there = 0  # the coordinator has lost what was there
                    continue
                wanted = response.status_code != httpx.codes.GONE
                if wanted:
                    response.raise_for_status()
                    there = self._sent[identifier] = _received(response, there, total)
        self._drop(identifier)
        return wanted

    def forget(self) -> None:
        """Hold no request any more: whatever is not answered is offered again."""
        with self._lock:
            self._held.clear()
            self._sent.clear()

    def _drop(self, identifier: str) -> None:
        with self._lock:
            self._held.pop(identifier, None)
            self._sent.pop(identifier, None)

    def _call(self, name: str, body: object = None) -> None:
        with translated():
            self._post(name, json.dumps(body or {}).encode()).raise_for_status()

    def _post(self, name: str, body: bytes) -> httpx.Response:
        response = self._send(name, body)
        try:
            ResponseGuard(MAX_ANSWER_BYTES)(response)
            response.read()
        finally:
            response.close()
        return response

    def _send(self, name: str, body: bytes) -> httpx.Response:
        """Send a request of the session; if the coordinator has forgotten the session, begin another one first."""
        response = self._try(name, body)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            response.close()
            self.hello()
            response = self._try(name, body)
        return response

    def _try(self, name: str, body: bytes) -> httpx.Response:
        if self._session is None:
            self.hello()
        assert self._session is not None  # Safe because hello has set it, or raised.
        session, key = self._session
        maced = mac_request(key, session, "POST", DIRECT + name, body, self._clock.now())
        return self._client.send(self._request(name, body, maced), stream=True)

    def _request(self, name: str, body: bytes, signed: dict[str, str]) -> httpx.Request:
        return self._client.build_request("POST", DIRECT + name, content=body, headers=signed)

    def _fetch(self, body: bytes) -> bytearray | None:
        """Return a whole request; a transfer that is interrupted goes on where it stopped."""
        whole, total = bytearray(), 0
        for _ in range(RESUMES):
            before = len(whole)
            try:
                with translated():
                    name = f"request/{_parsed_name(whole)}/{before}" if before else "poll"
                    total = self._stream(name, b"{}" if before else body, whole)
                return whole if total else None
            except LinkError:
                if len(whole) == before or _parsed_name(whole) is None:
                    raise
        raise _strange()

    def _stream(self, name: str, body: bytes, whole: bytearray) -> int:
        response = self._send(name, body)
        try:
            ResponseGuard(self._largest - len(whole))(response)
            self.waiting = False
            if response.status_code == httpx.codes.NO_CONTENT:
                return 0
            if not response.is_success:
                response.read()
                response.raise_for_status()
            for part in response.iter_raw():
                whole += part
        finally:
            response.close()
        return len(whole)


def _parsed_name(whole: bytes | bytearray) -> str | None:
    """Return the identifier of a request of which the beginning has arrived; None if not even that."""
    size = int.from_bytes(whole[:NUMBER], "big")
    if len(whole) < NUMBER + size:
        return None
    return _meta(bytes(whole[NUMBER : NUMBER + size])).message


def _meta(raw: bytes) -> Meta:
    if len(raw) > MAX_META_BYTES:
        raise _strange()
    try:
        return validate(Meta, json.loads(raw), error=WireError, what="request", received=True)
    except (WireError, ValueError, RecursionError):
        raise _strange() from None


def _parsed(whole: bytearray) -> Delivery:
    view = memoryview(whole)
    try:
        meta, rest = _cut(view)
        header, blob = _cut(rest)
        return Delivery(_meta(bytes(meta)), bytes(header), bytes(blob))
    except ValueError:
        raise _strange() from None


def _cut(view: memoryview) -> tuple[memoryview, memoryview]:
    size = int.from_bytes(view[:NUMBER], "big")
    if len(view) < NUMBER + size:
        raise ValueError("A part is longer than the whole.")
    return view[NUMBER : NUMBER + size], view[NUMBER + size :]


def _received(response: httpx.Response, before: int, total: int) -> int:
    try:
        received = int(response.json()["received"])
    except (ValueError, TypeError, KeyError):
        raise _strange() from None
    if not before < received <= total:
        raise _strange()
    return received


def _strange() -> LinkError:
    return LinkError(
        "The coordinator answered in a way that this site does not know.",
        remedy="Both sides must run versions of Salus that work together.",
    )
