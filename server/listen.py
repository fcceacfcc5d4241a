"""Serving an ASGI app in a thread, on a TLS port or on a private socket file."""

import os
import socket
import ssl
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from salus.common.errors import ConfigError

START_TIMEOUT_S = 20.0
BACKLOG = 2048


class Listener:
    """A running server; `close` stops it."""

    def __init__(self, app: FastAPI, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,  # a long poll need not be waited for
            timeout_keep_alive=60,
            server_header=False,
        )
        config.load()
        config.ssl = tls  # our own context: TLS 1.3, client certificate required
        self._socket = listening
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.02)
        if not self._server.started:
            raise ConfigError(
                "The server did not start.", remedy="See its log; the machine may be out of memory or files."
            )

    def close(self) -> None:
        """Stop serving and wait for it."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def listen_tcp(app: FastAPI, host: str, port: int, tls: ssl.SSLContext) -> Listener:
    """Serve on ``host:port`` over TLS; raises ConfigError if the port cannot be had."""
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
    return Listener(app, listening, tls)


def listen_unix(app: FastAPI, path: Path) -> Listener:
    """Serve on a socket file that only this user can open; a file left by a dead process is replaced."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)  # bind makes the file with these bits already gone
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
            f"Cannot make the admin socket: {problem.strerror}.", remedy="Check the folder's rights."
        ) from None
    finally:
        os.umask(old)
    return Listener(app, listening, None)
