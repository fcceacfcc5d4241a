"""What strangers, and sites that misbehave, can hold of the coordinator; a real process keeps serving the others."""

import asyncio
import contextlib
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from tests.builders import job_text

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import SystemClock
from salus.common.errors import LinkError
from salus.server.config import ServerFolder
from salus.server.daemon import is_news
from salus.server.door import Door, Limits
from salus.server.link import Link
from salus.server.listen import Listener, listen_tcp
from salus.simulations.trial import Trial

CLOCK = SystemClock()
WAIT_S = 60.0  # for something that happens; a busy machine is slow


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial"), ["One", "Two"], policy="")


@contextlib.contextmanager
def serving(trial: Trial, limits: Limits) -> Iterator[tuple[Listener, list[str]]]:
    server = ServerFolder.open(trial.coordinator, CLOCK)
    told: list[str] = []
    listener = listen_tcp(Link(server.node_keys()).app, "127.0.0.1", trial.port, server.tls(), told.append, limits)
    try:
        yield listener, told
    finally:
        listener.close()


def connect(trial: Trial, address: str = "127.0.0.1") -> socket.socket:
    """Return a TCP connection from a local address that stands for one machine."""
    stranger = socket.socket()
    stranger.bind((address, 0))
    stranger.settimeout(WAIT_S)
    stranger.connect(("127.0.0.1", trial.port))
    return stranger


def secure(trial: Trial, number: int = 1) -> ssl.SSLSocket:
    """Return a TLS connection with a site's certificate; nothing is signed by its node key."""
    context = SiteFolder.open(trial.sites[number - 1], CLOCK).tls()
    return context.wrap_socket(connect(trial), server_hostname="127.0.0.1")


def ended(connection: socket.socket) -> bool:
    """Wait until the other side has closed the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def site_gets_through(trial: Trial, number: int = 1) -> None:
    site = SiteFolder.open(trial.sites[number - 1], CLOCK)
    with FleetLink(f"https://127.0.0.1:{trial.port}", site.tls(), site.node_key) as link:
        assert link.activate() > 0


def test_idle_connections_from_one_address_close_each_other_and_not_a_site(trial: Trial) -> None:
    with serving(trial, Limits(waiting=20, waiting_per_address=8)) as (_, told), contextlib.ExitStack() as held:
        flood = [held.enter_context(connect(trial, "127.0.0.2")) for _ in range(40)]
        assert all(ended(connection) for connection in flood[:32]), "the oldest make room"
        site_gets_through(trial)
        more = [held.enter_context(connect(trial, "127.0.0.1")) for _ in range(40)]
        site_gets_through(trial)
        assert ended(more[0])
    assert told, "the operator is told"


def test_many_addresses_together_are_bounded_too(trial: Trial) -> None:
    with serving(trial, Limits(waiting=10, waiting_per_address=8)), contextlib.ExitStack() as held:
        flood = [held.enter_context(connect(trial, f"127.0.0.{2 + n % 20}")) for n in range(60)]
        assert ended(flood[0])
        site_gets_through(trial)


def test_an_unfinished_handshake_and_an_unfinished_head_end(trial: Trial) -> None:
    with serving(trial, Limits(handshake_s=0.2, head_s=0.2)):
        with connect(trial) as silent:
            assert ended(silent)
        with connect(trial) as slow:
            slow.sendall(b"\x16\x03\x01")
            assert ended(slow)
        with secure(trial) as mute:
            assert ended(mute)
        with secure(trial) as slow_head:
            slow_head.sendall(b"POST /v1/fleet/pull-object HTTP/1.1\r\nhost: x\r\n")
            assert ended(slow_head)


def test_endless_headers_are_cut(trial: Trial) -> None:
    with serving(trial, Limits()), secure(trial) as writer:
        writer.sendall(b"POST /v1/fleet/pull-object HTTP/1.1\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * 2**20:
                writer.sendall(b"x-more: " + b"a" * 8000 + b"\r\n")
                sent += 8010
            ended(writer)
        assert sent < 32 * 2**20, "no more than what the kernel's buffers and ours hold"


def test_a_body_that_nobody_has_signed_is_answered_before_it_is_sent(trial: Trial) -> None:
    with serving(trial, Limits()), secure(trial) as writer:
        writer.sendall(
            b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n"
            b"salus-protocol: 1\r\n\r\nfirst bytes"
        )
        assert b" 401 " in writer.recv(4096).split(b"\r\n")[0]
        assert ended(writer)


def test_one_certificate_holds_only_so_many_connections(trial: Trial) -> None:
    with serving(trial, Limits(per_certificate=4)), contextlib.ExitStack() as held:
        mine = [held.enter_context(secure(trial)) for _ in range(10)]
        assert all(ended(connection) for connection in mine[:6]), "the oldest are closed"
        site_gets_through(trial, 2)
        site_gets_through(trial, 1)


def test_limits_leave_half_of_the_descriptors() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits(total=10**9).within_descriptors()
    assert limits.total <= soft // 2
    assert limits.waiting <= limits.total // 2


def test_a_coordinator_process_survives_more_connections_than_it_has_descriptors(trial: Trial) -> None:
    """The attack: 1 100 idle connections ended the coordinator, because its database could not be opened any more."""
    files = 200
    process = subprocess.Popen(
        ["bash", "-c", f'ulimit -n {files}; exec "$0" -m salus.cli server start "$1"', sys.executable, trial.coordinator],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while "listening" not in (line := process.stdout.readline()):
            assert line, "it did not start"
        with contextlib.ExitStack() as held:
            for n in range(2 * files):
                with contextlib.suppress(ConnectionError):
                    held.enter_context(connect(trial, f"127.0.0.{2 + n % 50}"))
            site_gets_through(trial)
            job = trial.submit(job_text())  # opens the database
            assert [row["job"] for row in trial.admin.get("/jobs")] == [job]
            site_gets_through(trial, 2)
            with pytest.raises(LinkError):
                stranger(trial)
        assert process.poll() is None
    finally:
        process.terminate()
        output = process.communicate(timeout=WAIT_S)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "connections-refused" in output


def stranger(trial: Trial) -> None:
    """A site's certificate with another node key."""
    from salus.common.certificates import new_node_key

    site = SiteFolder.open(trial.sites[0], CLOCK)
    with FleetLink(f"https://127.0.0.1:{trial.port}", site.tls(), new_node_key()) as link:
        link.activate()


def test_the_admin_app_is_served_without_tls(tmp_path: Path) -> None:
    from salus.server.listen import listen_unix

    app = FastAPI()
    app.get("/x")(lambda: {"fine": True})
    listener = listen_unix(app, tmp_path / "s")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert b"fine" in answer
    finally:
        listener.close()


@pytest.mark.parametrize("begun", [False, True], ids=["an upload", "an answer that has begun"])
def test_a_server_that_stops_ends_open_requests_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    from salus.server.listen import listen_unix

    inside = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        inside.set()
        while True:  # the rest of the body never comes
            assert (await receive())["type"] == "http.request"

    listener = listen_unix(app, tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(tmp_path / "s"))
        client.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
        assert inside.wait(WAIT_S)
        listener.close()
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = b"".join(iter(lambda: client.recv(4096), b""))
    if not begun:
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b'{"detail": "The coordinator is stopping"}')
    assert [record for record in caplog.records if is_news(record) and record.levelname == "ERROR"] == []


def test_answers_are_not_held_back_by_the_kernel() -> None:
    """Nagle's algorithm would delay the second part of each small answer by 40 ms; asyncio does not always switch it off."""
    seen: list[int] = []

    async def look() -> None:
        listening = socket.create_server(("127.0.0.1", 0))

        class Seen(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                ours = transport.get_extra_info("socket")
                seen.append(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                done.set()

        done = asyncio.Event()
        door = Door(listening, None, Limits(), Seen, lambda text: None)
        _, writer = await asyncio.open_connection(*listening.getsockname())
        await done.wait()
        writer.close()
        door.close()
        await door.wait_closed()
        listening.close()

    asyncio.run(look())
    assert seen == [1]
