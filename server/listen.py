"""Serving an ASGI app in a thread, on a TLS port or on a private socket file."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salus.common.errors import ConfigError
from salus.common.versions import PROTOCOL
from salus.server.door import Door, GuardedProtocol, Limits
from salus.server.link_auth import STOPS, refuse
from salus.server.link_members import CONNECTION

START_TIMEOUT_S = 20.0
BACKLOG = 2048
END_S = 2.0  # for the answers to cancelled requests


def ending_well(app: ASGIApp) -> ASGIApp:
    """Return an app that answers what is still open with `STOPS` when its server stops.

    An answer that has begun cannot be taken back: its connection is closed.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, noting)
        except asyncio.CancelledError:  # only a server that stops cancels a request
            if begun:
                scope["state"][CONNECTION].abort()
                while (await receive())["type"] != "http.disconnect":
                    pass
            else:
                await refuse(send, STOPS, PROTOCOL)

    return serve


class _Server(uvicorn.Server):
    """uvicorn behind a `Door`: its own accept loop has no limits and stops for good when descriptors run out."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        tell: Callable[[str], None],
        limits: Limits,
    ) -> None:
        super().__init__(config)
        self._opened = listening, tls, tell, limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        listening, tls, tell, limits = self._opened

        def make() -> GuardedProtocol:
            return GuardedProtocol(
                door, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        door = Door(listening, tls, limits.within_descriptors(), make, tell)
        self.servers = [door]  # type: ignore[list-item]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.server_state.tasks:  # they were cancelled, and end as `ending_well` says
            await asyncio.wait(self.server_state.tasks, timeout=END_S)


class Listener:
    """A running server; `close` stops it.

    Args:
        tls: our own context: TLS 1.3, client certificate required; None for the admin socket.
        tell: called with one sentence when connections are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        tell: Callable[[str], None] = lambda text: None,
        limits: Limits | None = None,
    ) -> None:
        config = uvicorn.Config(
            ending_well(app),
            interface="asgi3",
            proxy_headers=False,
            loop="asyncio",
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,  # no need to wait for a long poll
            timeout_keep_alive=60,
            h11_max_incomplete_event_size=Limits.head_bytes,
            server_header=False,
        )
        self._socket = listening
        self._server = _Server(config, listening, tls, tell, limits or Limits())
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.02)
        if not self._server.started:
            raise ConfigError(
                "The server did not start.", remedy="See its log; the machine may be short of memory or open files."
            )

    def renew(self, tls: ssl.SSLContext) -> None:
        """Use another context for all connections from now on; the open ones stay."""
        for door in self._server.servers:
            assert isinstance(door, Door)  # Safe because `startup` puts nothing else there.
            door.tls = tls

    def close(self) -> None:
        """Stop serving and wait for it."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def listen_tcp(
    app: ASGIApp,
    host: str,
    port: int,
    tls: ssl.SSLContext,
    tell: Callable[[str], None] = lambda text: None,
    limits: Limits | None = None,
) -> Listener:
    """Serve on ``host:port`` over TLS; raises ConfigError if the address is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as problem:
        listening.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {problem.strerror}.",
            remedy="Another process may use the port: stop it, or change listen and port in server.toml.",
        ) from None
    return Listener(app, listening, tls, tell, limits)


def listen_unix(app: ASGIApp, path: Path) -> Listener:
    """Serve on a socket file that only this user can open; a file left by a dead process is replaced."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)  # so that bind creates the file without these bits
    try:
        # A Unix socket's path is limited to about 100 bytes: bind by its name, in its folder.
        here = os.open(".", os.O_RDONLY)
        try:
            os.chdir(path.parent)
            listening.bind(path.name)
        finally:
            os.fchdir(here)
            os.close(here)
        listening.listen(BACKLOG)
    except OSError as problem:
        raise ConfigError(
            f"Cannot create the admin socket: {problem.strerror}.",
            remedy="Check the permissions of the coordinator's folder.",
        ) from None
    finally:
        os.umask(old)
    return Listener(app, listening, None)
