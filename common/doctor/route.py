"""The way from this machine to the coordinator, step by step: name, proxy, TCP. Each failure says which step, and why.

The daemon itself connects through httpx; `tests/common/doctor/test_route.py` holds that both choose the same proxy.
"""

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote, urlsplit

TIMEOUT_S = 10.0
STEP_S = 45.0  # for a whole step, however slowly the other end sends
MAX_HEAD = 16 * 1024  # bytes of a proxy's answer to CONNECT
Found = TypeVar("Found")
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class RouteError(Exception):
    """A step that failed.

    Args:
        cause: one of `findings.CAUSES`.
        detail: a proxy's status, or what it asks for; may come from the network.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.detail = cause, detail


@dataclass(frozen=True)
class Proxy:
    """A proxy from the environment.

    Args:
        variable: the name of the environment variable that states it.
        user, password: empty for a proxy without authentication; not part of `repr`.
    """

    scheme: str
    host: str
    port: int
    variable: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Host and port, without user and password."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Target:
    """Where the coordinator is."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Target":
        """Return the target of an https URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 443)

    @property
    def place(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_of(target: Target, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that leads to a target, or None if it is reached directly.

    Raises:
        RouteError: a proxy that is not a URL, or of a kind that Salus cannot use.
    """
    known = _proxies(environment)
    url = known.get("https") or known.get("all")
    if not url or _bypassed(target, known):
        return None
    variable = next((name for name in VARIABLES if environment.get(name)), "https_proxy")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise RouteError("proxy-unknown-kind", variable) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RouteError("proxy-unknown-kind", variable)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Proxy(parts.scheme, parts.hostname, port, variable, user, password)


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies of an environment by scheme, and ``no``; a name in small letters wins, as in urllib and httpx."""
    known: dict[str, str] = {}
    for name in sorted(environment):  # capital letters come first
        scheme, _, rest = name.lower().rpartition("_")
        if rest == "proxy" and scheme in ("https", "all", "no"):
            known[scheme] = environment[name]
    return known


def _bypassed(target: Target, known: Mapping[str, str]) -> bool:
    """Whether ``no_proxy`` names this host: the host itself, a domain above it, or ``*``; with a port, only for that."""
    host = target.host.lower()
    for word in known.get("no", "").lower().split(","):
        name = word.strip().removesuffix(f":{target.port}")
        if name == "*" or (name and (host == name or host.endswith("." + name.removeprefix(".")))):
            return True
    return False


def within(seconds: float, step: Callable[[], Found], cause: str) -> Found:
    """Return the result of a step; who answers byte by byte cannot hold it longer than this.

    Raises:
        RouteError: the time is over, with this cause; or of the step.
    """
    done: list[Found] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(step())
        except BaseException as problem:
            failed.append(problem)

    working = threading.Thread(target=work, daemon=True)  # given up when it is late
    working.start()
    working.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise RouteError(cause)
    return done[0]


def addresses(host: str, port: int, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Return the addresses of a host.

    Raises:
        RouteError: there is no such name, or no answer.
    """

    def ask() -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise RouteError("dns-no-such-name") from None
        except socket.gaierror as problem:
            raise RouteError("dns-no-answer" if problem.errno == socket.EAI_AGAIN else "dns-no-such-name") from None
        except OSError:
            raise RouteError("dns-no-answer") from None
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    return within(timeout_s, ask, "dns-no-answer")  # the system's resolver has no time limit of its own


def dial(target: Target, proxy: Proxy | None, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """Return an open TCP connection to the target, through the proxy if there is one.

    Raises:
        RouteError: no answer, refused, no route; or what the proxy answered.
    """
    if proxy is None:
        return _tcp(target.host, target.port, timeout_s)
    connection = _tcp(proxy.host, proxy.port, timeout_s)
    try:
        if proxy.scheme == "https":
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=proxy.host)
        _tunnel(connection, target, proxy)
    except OSError as problem:
        connection.close()
        raise RouteError("proxy-failed", type(problem).__name__) from None
    except RouteError:
        connection.close()
        raise
    return connection


def _tcp(host: str, port: int, timeout_s: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=timeout_s)
    except TimeoutError:
        raise RouteError("tcp-no-answer") from None
    except ConnectionRefusedError:
        raise RouteError("tcp-refused") from None
    except socket.gaierror:
        raise RouteError("dns-no-such-name") from None
    except OSError as problem:
        raise RouteError("tcp-no-route" if problem.errno in (101, 113) else "tcp-failed") from None


def _tunnel(connection: socket.socket, target: Target, proxy: Proxy) -> None:
    """Ask a proxy for a tunnel to the target, as httpx does."""
    lines = [f"CONNECT {target.place} HTTP/1.1", f"Host: {target.place}"]
    if proxy.user or proxy.password:
        account = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {account}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace"))
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1)  # not a byte more: what follows belongs to the tunnel
        if not part or len(head) > MAX_HEAD:
            raise RouteError("proxy-not-http")
        head += part
    status, _, rest = head.decode("latin-1").partition("\r\n")
    words = status.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise RouteError("proxy-not-http")
    if words[1] == "407":
        offered = [
            line.partition(":")[2].split() for line in rest.split("\r\n") if line.lower().startswith("proxy-auth")
        ]
        raise RouteError("proxy-asks-for-password", ", ".join(sorted({each[0][:20] for each in offered if each})))
    if words[1] in ("401", "403", "405", "451"):
        raise RouteError("proxy-forbids", words[1][:3])
    if words[1] != "200":
        raise RouteError("proxy-failed", words[1][:3])
