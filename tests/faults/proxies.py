"""An HTTP proxy for tests: CONNECT with or without a password, or one that opens TLS itself and shows its own certificates."""

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from salus.common.certificates import issue, make_authority, make_request, new_transport_key
from salus.common.clock import SystemClock

INSPECTION = "Hospital inspection"


@dataclass
class Proxy:
    """A running proxy.

    Args:
        password: ``user:password`` that it asks for; empty for none.
        inspecting: what shows its own certificate; None for a plain tunnel.
        asked: targets of all CONNECT requests.
    """

    listener: socket.socket
    password: str = ""
    inspecting: ssl.SSLContext | None = None
    asked: list[str] = field(default_factory=list)
    read: bytearray = field(default_factory=bytearray)
    _open: list[socket.socket] = field(default_factory=list)

    def url(self, password: str = "") -> str:
        """Return the value of HTTPS_PROXY."""
        return f"http://{password + '@' if password else ''}127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        for one in (self.listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _one(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            words = head.split(b"\r\n")[0].split()
            target = words[1].decode()
            self.asked.append(target)
            wanted = base64.b64encode(self.password.encode())
            if self.password and b"basic " + wanted.lower() not in head.lower():
                client.sendall(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            host, _, port = target.rpartition(":")
            server = socket.create_connection((host, int(port)))
            self._open.append(server)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            if self.inspecting is not None:
                with self.inspecting.wrap_socket(client, server_side=True) as opened:
                    self.read += opened.recv(4096)
                return
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            pump(server, client)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy one direction until it ends."""
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(password: str = "", inspecting: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy on loopback."""
    made = Proxy(socket.create_server(("127.0.0.1", 0)), password, inspecting)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


def inspection(folder: Path, url: str) -> ssl.SSLContext:
    """Return the server side of a proxy with its own authority and its own certificate for `url`."""
    now = SystemClock().now()
    authority_key, key = new_transport_key(), new_transport_key()
    authority = make_authority(authority_key, INSPECTION, now, days=30)
    pem = issue(authority, authority_key, make_request(key, "proxy"), now=now, days=30, server_url=url)
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "proxy.pem").write_bytes(pem.encode() + key.private_bytes(*kinds))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "proxy.pem")
    return context
