"""A coordinator that answers byte by byte cannot hold the doctor, whichever part of its answer it stretches."""

import contextlib
import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.clock import SystemClock
from salus.common.doctor import asking
from salus.common.doctor.asking import Asker
from salus.common.errors import WireError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("first", [b"", HEAD, HEAD + b"\r\n"], ids=["status", "headers", "body"])
def test_a_slow_answer_ends_the_question(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(asking, "CALL_TIMEOUT_S", 0.5)
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            while not over.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        key = ec.generate_private_key(ec.SECP384R1())
        with Asker(url, ssl.create_default_context(), key, SystemClock()) as asker, pytest.raises(WireError):
            asker.ask()
        over.set()
        thread.join()
