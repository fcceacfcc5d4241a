"""Health and metrics over HTTP: off by default, on loopback, bounded, and with nothing to read but fixed words and numbers."""

import socket
import urllib.error
import urllib.request

import pytest

from salus.common.errors import ConfigError
from salus.common.monitoring import MOST_AT_ONCE, Monitoring, MonitoringSettings
from salus.simulations.trial import free_port


def get(port: int, path: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.read().decode()


def test_nothing_listens_by_default_and_states_can_still_be_set() -> None:
    settings = MonitoringSettings()
    assert (settings.http_port, settings.http_listen) == (0, "127.0.0.1")
    monitoring = Monitoring(0, settings, bytes)
    monitoring.set(serving=True)
    monitoring.close()


def test_alive_ready_and_metrics() -> None:
    port = free_port()
    monitoring = Monitoring(0, MonitoringSettings(http_port=port), lambda: b"salus_sites 3\n")
    try:
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz") == (503, "not ready\n")
        monitoring.set(serving=True)
        monitoring.set(serving=False, service="salus.data")  # of the data only
        assert get(port, "/readyz") == (200, "ready\n")
        assert get(port, "/metrics") == (200, "salus_sites 3\n")
        assert get(port, "/metrics/../../etc/passwd")[0] == 404
        assert get(port, "/")[0] == 404
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 501 " in connection.recv(4096)
    finally:
        monitoring.close()


def test_whoever_holds_connections_open_cannot_take_more_threads_and_is_cut_off() -> None:
    port = free_port()
    monitoring = Monitoring(0, MonitoringSettings(http_port=port), bytes)
    held: list[socket.socket] = []
    try:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST_AT_ONCE)]
        more = socket.create_connection(("127.0.0.1", port))
        held.append(more)
        assert more.recv(1) == b"", "closed at once"
        held[0].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200" in held[0].recv(4096)
    finally:
        for connection in held:
            connection.close()
        monitoring.close()


def test_a_port_in_use_is_a_mistake_in_the_settings() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="http_port"):
        Monitoring(0, MonitoringSettings(http_port=taken.getsockname()[1]), bytes)
