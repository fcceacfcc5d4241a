"""The way to the coordinator over real sockets on loopback: every failure has its cause, and its sentence."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from salus.common.certificates import issue, make_authority, make_request, new_transport_key
from salus.common.doctor.findings import Finding
from salus.common.doctor.network import way_to
from salus.common.doctor.route import Proxy, RouteError, Target, addresses, proxy_of
from salus.common.doctor.sentences import words_of

NOW = datetime.now(UTC)
SECRET = "hunter2"


class Server:
    """Accepts connections on loopback and gives each to a handler, until closed."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._handle = handle
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                try:
                    self._handle(connection)
                except OSError:
                    continue

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Server]]:
    servers: list[Server] = []

    def start(handle: Callable[[socket.socket], None]) -> Server:
        servers.append(Server(handle))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def authority(name: str) -> tuple[x509.Certificate, Callable[[Path, str], ssl.SSLContext]]:
    """Return an authority, and what makes a server's context of it."""
    key = new_transport_key()
    certificate = make_authority(key, name, NOW, 100)

    def server(folder: Path, host: str) -> ssl.SSLContext:
        own = new_transport_key()
        pem = issue(certificate, key, make_request(own, "c"), now=NOW, days=50, server_url=f"https://{host}:1")
        (folder / "s.pem").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + pem.encode()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "s.pem")
        return context

    return certificate, server


OURS, OUR_SERVER = authority("Trial authority")
THEIRS, THEIR_SERVER = authority("Hospital Proxy CA")


def tls(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            inside.recv(1)

    return handle


def found(url: str, environment: dict[str, str] | None = None, now: datetime = NOW) -> dict[str, Finding]:
    way = way_to(url, OURS, environment or {}, now)
    assert way.open == all(each.status == "ok" for each in way.findings)
    return {each.check: each for each in way.findings}


def test_the_consortiums_own_certificate_is_recognised(serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    server = serve(tls(OUR_SERVER(tmp_path, "127.0.0.1")))
    checks = found(server.url)
    assert {each.status for each in checks.values()} == {"ok"}
    assert checks["tls"].values["version"] == "TLSv1.3"


def test_interception_names_the_issuer_and_asks_for_an_exemption(serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    server = serve(tls(THEIR_SERVER(tmp_path, "127.0.0.1")))
    finding = found(server.url)["tls"]
    assert (finding.status, finding.cause) == ("failed", "intercepted")
    assert "Hospital Proxy CA" in finding.network_team
    assert f"exempt 127.0.0.1:{server.port} from TLS inspection" in finding.network_team


def test_an_issuers_name_cannot_write_to_the_terminal_nor_fill_it(serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, server = authority("\x1b]52;c;x\x07" + "A" * 50)
    finding = found(serve(tls(server(tmp_path, "127.0.0.1"))).url)["tls"]
    assert "\x1b" not in finding.found + finding.network_team
    assert len(finding.found) < 400


def test_another_host_and_dates_that_do_not_fit_are_told_apart(serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    server = serve(tls(OUR_SERVER(tmp_path, "salus.example.org")))
    assert found(server.url)["tls"].cause == "wrong-host"
    (tmp_path / "b").mkdir()
    server = serve(tls(OUR_SERVER(tmp_path / "b", "127.0.0.1")))
    for years in (-1, 1):
        finding = found(server.url, now=NOW + timedelta(days=365 * years))["tls"]
        assert finding.cause == "expired"
        assert "clock" in finding.remedy


def test_what_is_not_tls_and_what_hangs_up_are_told_apart(serve) -> None:  # type: ignore[no-untyped-def]
    portal = serve(lambda c: c.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n"))
    assert found(portal.url)["tls"].cause == "not-tls"
    cutter = serve(lambda c: c.recv(4096) and None)
    assert found(cutter.url)["tls"].cause in ("closed", "tls-failed")


def test_nobody_listens_and_no_such_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    checks = found(f"https://127.0.0.1:{port}")
    assert (checks["connection"].cause, checks["tls"].status) == ("tcp-refused", "skipped")
    with pytest.raises(RouteError) as problem:
        addresses("a..b", 1)
    assert problem.value.cause in ("dns-no-such-name", "dns-no-answer")


def proxy(status: str, more: str = "", seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        if seen is not None:
            seen.append(head)
        connection.sendall(f"HTTP/1.1 {status}\r\n{more}\r\n".encode())

    return handle


@pytest.mark.parametrize(
    ("status", "more", "cause"),
    [
        ("407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=x\r\n", "proxy-asks-for-password"),
        ("407 No", "Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n", "proxy-asks-for-password"),
        ("403 Forbidden", "", "proxy-forbids"),
        ("502 Bad Gateway", "", "proxy-failed"),
    ],
)
def test_what_a_proxy_answers_decides_the_sentence(serve, status: str, more: str, cause: str) -> None:  # type: ignore[no-untyped-def]
    server = serve(proxy(status, more))
    place = f"127.0.0.1:{server.port}"
    finding = found("https://salus.invalid:8443", {"https_proxy": f"http://{place}"})["proxy"]
    assert (finding.status, finding.cause) == ("failed", cause)
    assert place in finding.found
    assert "salus.invalid:8443" in finding.network_team
    if "NTLM" in more:
        assert "Basic only" in finding.remedy


def test_a_wrong_password_is_sent_to_the_proxy_only_and_shown_to_nobody(serve) -> None:  # type: ignore[no-untyped-def]
    seen: list[bytes] = []
    server = serve(proxy("407 No", "Proxy-Authenticate: Basic realm=x\r\n", seen))
    checks = found("https://salus.invalid", {"HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:{server.port}"})
    assert b"Proxy-Authorization: Basic" in seen[0]
    assert "does not accept the user and password in HTTPS_PROXY" in checks["proxy"].found
    assert SECRET not in str(checks) + repr(proxy_of(Target("h", 1), {"https_proxy": f"http://u:{SECRET}@p:1"}))


def test_a_tunnel_through_a_proxy_reaches_the_coordinator(serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    context = OUR_SERVER(tmp_path, "salus.invalid")

    def tunnel(connection: socket.socket) -> None:
        proxy("200 Connection established")(connection)
        tls(context)(connection)

    server = serve(tunnel)
    checks = found("https://salus.invalid:8443", {"https_proxy": f"127.0.0.1:{server.port}"})
    assert {each.status for each in checks.values()} == {"ok"}
    assert "through the proxy" in checks["connection"].found


def test_something_else_than_a_proxy_is_said_to_be_none(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(lambda c: c.sendall(b"220 mail.example ESMTP\r\n\r\n"))
    finding = found("https://salus.invalid", {"https_proxy": f"http://127.0.0.1:{server.port}"})["proxy"]
    assert finding.cause == "proxy-not-http"
    finding = found("https://salus.invalid", {"https_proxy": "socks5://127.0.0.1:1"})["proxy"]
    assert finding.cause == "proxy-unknown-kind"


ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"https_proxy": "http://p.example:3128"},
    {"HTTPS_PROXY": "http://big.example:1", "https_proxy": "http://small.example:2"},
    {"all_proxy": "http://all.example:3"},
    {"http_proxy": "http://plain.example:4"},
    {"https_proxy": "p.example:5"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "salus.example.org"},
    {"https_proxy": "http://p.example:3128", "NO_PROXY": ".example.org"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "*"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "other.org, salus.example"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "example.org"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "ample.org"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "salus.example.org:8443"},
    {"https_proxy": "http://p.example:3128", "no_proxy": "salus.example.org:1"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_the_proxy_is_the_one_that_the_daemon_uses(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = "https://salus.example.org:8443"
    with httpx.Client() as client:
        transport = client._transport_for_url(httpx.URL(url))
        pool = transport._pool  # type: ignore[attr-defined]
        used = getattr(pool, "_proxy_url", None)
    mine = proxy_of(Target.of(url), environment)
    if used is None:
        assert mine is None
    else:
        assert mine is not None
        assert (mine.host, mine.port) == (used.host.decode(), used.port)


def test_every_cause_has_a_sentence_of_its_own_and_the_network_team_gets_address_and_port() -> None:
    target, through = Target("salus.example.org", 8443), Proxy("http", "proxy.example", 3128, "https_proxy")
    causes = ("dns-no-such-name", "dns-no-answer", "tcp-no-answer", "tcp-refused", "tcp-no-route", "not-tls", "closed")
    plain = [words_of(cause, "", target, None, ("192.0.2.1",)) for cause in causes]
    causes = ("proxy-unknown-kind", "proxy-asks-for-password", "proxy-forbids", "proxy-failed", "proxy-not-http")
    proxied = [words_of(cause, "407", target, through) for cause in causes]
    every = plain + proxied
    assert len({words.found for words in every}) == len(every)
    assert all("TCP to salus.example.org:8443" in words.network_team for words in every)
    assert all(words.remedy and words.network_team.startswith("Please ") for words in every)


def test_who_answers_byte_by_byte_cannot_hold_the_command(serve, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from salus.common.doctor import network

    done = threading.Event()
    monkeypatch.setattr(network, "STEP_S", 0.2)
    server = serve(lambda connection: done.wait() and None)  # accepts, and says nothing
    try:
        assert found(server.url)["tls"].cause == "closed"
        checks = found("https://salus.invalid", {"https_proxy": f"http://127.0.0.1:{server.port}"})
        assert checks["proxy"].cause == "proxy-failed"
    finally:
        done.set()
