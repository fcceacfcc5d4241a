"""Limits on connections to the coordinator: who may hold one, and for how long.

    accepted ──TLS handshake──> certificate known ──head──> body ──> answer ──> idle, or the next head
       │ too long, or the oldest of too many  │ each step has a time limit; also the oldest of too many of one certificate
       └────────────────────────> closed <────┘

An unknown client can hold only a bounded number of descriptors, each for seconds, and never the last ones: half of what
the system allows is kept for the rest of the process (databases, models). A flood from one address affects only that
address: its oldest unfinished handshakes are closed for new ones, so a site behind the same address still gets through.
"""

import asyncio
import contextlib
import hashlib
import resource
import socket
import ssl
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from salus.server.link_members import CONNECTION

ACCEPTS_AT_ONCE = 64
ACCEPT_RETRY_S = 0.5
TELL_EVERY_S = 60.0
WANTED_FILES = 65_536
GATHERED_BYTES = 16 * 1024
LOCAL = b""  # in place of a certificate: the admin socket, which only its owner can open


@dataclass(frozen=True)
class Limits:
    """The number of connections and the time limit of each step.

    Args:
        total: all connections at the same time.
        waiting: unfinished TLS handshakes among them.
        waiting_per_address: unfinished TLS handshakes from one address.
        per_certificate: connections of one site: a long poll, a heartbeat, an upload, and those left over from before a restart.
        head_bytes: size of a request line with all its headers.
        body_rate: bytes per second that a body must reach, after `head_s`.
    """

    total: int = 2048
    waiting: int = 256
    waiting_per_address: int = 64
    per_certificate: int = 8
    head_bytes: int = 16 * 1024
    handshake_s: float = 10.0
    head_s: float = 10.0
    answer_s: float = 330.0  # a long poll, then 8 MiB over a slow connection
    body_rate: float = 16 * 1024.0

    def within_descriptors(self) -> "Limits":
        """Return limits that leave half of the process's descriptors for everything else."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        total = self.total if soft == resource.RLIM_INFINITY else min(self.total, soft // 2)
        waiting = min(self.waiting, total // 2)
        per_address = min(self.waiting_per_address, max(1, waiting // 2))
        return replace(self, total=total, waiting=waiting, waiting_per_address=per_address)


def raise_open_files() -> None:
    """Raise the soft limit on open files as far as the system allows; many systems start programs with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Door:
    """Accepts connections within limits; what uvicorn calls a server: it has `close` and `wait_closed`.

    Args:
        make: returns a new protocol for a connection.
        tell: called at most once a minute, with a sentence saying that connections are refused.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        limits: Limits,
        make: Callable[[], asyncio.Protocol],
        tell: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening, self._make, self._tell = listening, make, tell
        self.tls, self.limits = tls, limits
        self._waiting: OrderedDict[socket.socket, str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inside: OrderedDict[asyncio.Protocol, bytes] = OrderedDict()
        self._told = float("-inf")
        self._closed = False
        listening.setblocking(False)
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting connections and drop unfinished handshakes."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listening.fileno())
            for task in self._tasks:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the unfinished handshakes have ended, then close the connections that are left."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        for protocol in list(self._inside):  # a long poll would otherwise keep its socket until the process ends
            assert isinstance(protocol, GuardedProtocol)  # Safe because nothing else enters.
            protocol.transport.abort()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors or memory: waiting connections stay in the kernel's queue
                self._say("The system's limit on open files or memory is reached; new connections wait.")
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(ACCEPT_RETRY_S, self._resume)
                return
            connection.setblocking(False)
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio sets this only on sockets made with an explicit protocol number. Without it the kernel holds back the
                # body of each small answer until the head is acknowledged: 40 ms for every request.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._admit(connection, str(address[0]) if isinstance(address, tuple) else "")

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _admit(self, connection: socket.socket, address: str) -> None:
        """Make room for a new handshake among the unfinished ones; without room it is refused."""
        same = [other for other, owner in self._waiting.items() if owner == address]
        if len(same) >= self.limits.waiting_per_address:
            self._drop(same[0])
        elif len(self._waiting) >= self.limits.waiting or len(self._waiting) + len(self._inside) >= self.limits.total:
            crowd = self._largest_crowd()
            if crowd is None:
                self._say("The limit on connections is reached; new ones are refused.")
                _reset(connection)
                return
            self._drop(crowd)
        self._waiting[connection] = address
        task = self._loop.create_task(self._let_in(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _largest_crowd(self) -> socket.socket | None:
        """Return the oldest unfinished handshake of the address that has the most of them."""
        counts: dict[str, int] = {}
        for owner in self._waiting.values():
            counts[owner] = counts.get(owner, 0) + 1
        if not counts:
            return None
        busiest = max(counts, key=counts.__getitem__)
        return next(connection for connection, owner in self._waiting.items() if owner == busiest)

    def _drop(self, connection: socket.socket) -> None:
        self._say("Too many unfinished connections; the oldest ones of the busiest address are closed.")
        del self._waiting[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # the transport that owns it sees the end and closes it

    async def _let_in(self, connection: socket.socket) -> None:
        tls = self.tls
        times = {"ssl_handshake_timeout": self.limits.handshake_s, "ssl_shutdown_timeout": self.limits.head_s}
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=tls, **(times if tls else {}))
        except (OSError, asyncio.CancelledError):
            connection.close()  # refused, too slow, or not TLS: an unknown client gets no answer
        finally:
            self._waiting.pop(connection, None)

    def entered(self, protocol: "GuardedProtocol", certificate: bytes) -> None:
        """Count a connection whose certificate is known; the oldest of too many of this certificate is closed."""
        same = [other for other, owner in self._inside.items() if owner == certificate != LOCAL]
        if len(same) >= self.limits.per_certificate:
            self._say("A site holds too many connections; its oldest one is closed.")
            self.left(same[0])
            assert isinstance(same[0], GuardedProtocol)  # Safe because nothing else enters.
            same[0].transport.abort()
        self._inside[protocol] = certificate

    def left(self, protocol: asyncio.Protocol) -> None:
        """Forget a connection that has ended."""
        self._inside.pop(protocol, None)

    def _say(self, text: str) -> None:
        now = self._loop.time()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            self._tell(text)


def _reset(connection: socket.socket) -> None:
    """Close at once, without the TCP states in which the kernel would keep the connection."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Gathered:
    """A transport that sends what is written in one turn of the event loop together.

    uvicorn writes head, body and end of a response one by one; with TLS each of them would be a record and a system call.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep small pieces until the end of this turn; more than `GATHERED_BYTES` goes out at once."""
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size > GATHERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            whole = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
            self._waiting, self._size = [], 0
            if not self._transport.is_closing():
                self._transport.write(whole)

    def close(self) -> None:
        """Send what waits, then close."""
        self._flush()
        self._transport.close()


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 over h11, with a time limit for each step of a request; h11 itself limits the size of a head."""

    def __init__(self, door: Door, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.app_state = {**self.app_state, CONNECTION: self}  # so that the app can end this connection, see `Members`
        self._door = door
        self._step = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathered(transport, self.loop))  # type: ignore[arg-type]
        tls = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        self._door.entered(self, hashlib.sha256(shown).digest() if shown else LOCAL)
        self._at("head", self._door.limits.head_s)

    def abort(self) -> None:
        """End the connection at once."""
        if not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._at("")
        self._door.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # the rest of a body that was refused
        if self.conn.their_state is h11.IDLE and not self._step:
            self._at("head", self._door.limits.head_s)
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._at("")
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Set the time limit of the client's current step."""
        limits = self._door.limits
        if self.conn.their_state is h11.SEND_BODY and self._step in ("", "head"):
            declared = dict(self.headers).get(b"content-length", b"0")
            length = int(declared) if declared.isdigit() and len(declared) < 10 else 0
            self._at("body", 3 * limits.head_s + length / limits.body_rate)
        elif self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) and self._answering and self._step != "answer":
            self._at("answer", limits.answer_s)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _at(self, step: str, seconds: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._step = step
        if step:
            self._timer = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self.abort()
