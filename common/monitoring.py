"""What others may ask a running daemon: is it alive, is it ready, how is it doing. Each door is off unless its port is set.

    gRPC     grpc.health.v1      SERVING or NOT_SERVING, on loopback (`common/health.py`)
    HTTP     GET /healthz        200 while the daemon runs
             GET /readyz         200 while it can do its work, otherwise 503
             GET /metrics        Prometheus' text format

No answer names a hospital, a job, a data set or a patient. There is no TLS and no password: the address is loopback unless the
operator sets another one.
"""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from pydantic import Field

from salus.common.errors import ConfigError
from salus.common.health import HealthServer
from salus.common.strict import Strict

MOST_AT_ONCE = 8
PATIENCE_S = 5.0  # for a request to arrive, and for its answer to be taken
TEXT, METRICS = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"


class MonitoringSettings(Strict):
    """Who may ask this daemon how it is doing; nobody by default.

    Args:
        http_port: TCP port for ``/healthz``, ``/readyz`` and ``/metrics``; 0 turns it off.
        health_listen: Address of the gRPC health service; Kubernetes probes the address of a pod, so 0.0.0.0 there.
        http_listen: Address of this port. Anybody who reaches it may read the numbers; there is no password.
    """

    http_port: Annotated[int, Field(ge=0, le=65535)] = 0
    health_listen: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = "127.0.0.1"  # this machine only
    http_listen: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = "127.0.0.1"  # this machine only


class Monitoring:
    """The doors of one daemon.

    Args:
        health_port: of the gRPC health service; 0 turns it off.
        metrics: returns the text of ``/metrics``.

    Raises:
        ConfigError: a port is in use.
    """

    def __init__(self, health_port: int, settings: MonitoringSettings, metrics: Callable[[], bytes]) -> None:
        self._ready = False
        self._grpc = HealthServer(health_port, settings.health_listen) if health_port else None
        try:
            self._http = _HttpServer(settings, lambda: self._ready, metrics) if settings.http_port else None
        except BaseException:
            self.close_grpc()
            raise

    @property
    def port(self) -> int:
        """The port of the gRPC health service; 0 if it is off."""
        return self._grpc.port if self._grpc is not None else 0

    def set(self, *, serving: bool, service: str = "") -> None:
        """Set whether this daemon can do its work; see `HealthServer.set`."""
        if not service:
            self._ready = serving
        if self._grpc is not None:
            self._grpc.set(serving=serving, service=service)

    def close_grpc(self) -> None:
        """Close the gRPC health service."""
        if self._grpc is not None:
            self._grpc.close()

    def close(self) -> None:
        """Close every door."""
        self.close_grpc()
        if self._http is not None:
            self._http.close()


class _HttpServer(ThreadingHTTPServer):
    """Answers a few requests at once, one for each connection; nobody can hold more threads or memory than that."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, settings: MonitoringSettings, ready: Callable[[], bool], metrics: Callable[[], bytes]) -> None:
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self.ready, self.metrics = ready, metrics
        self.address_family = socket.AF_INET6 if ":" in settings.http_listen else socket.AF_INET
        try:
            super().__init__((settings.http_listen, settings.http_port), _Handler)
        except OSError:
            raise ConfigError(
                f"Cannot listen on {settings.http_listen}, port {settings.http_port}, for monitoring.",
                remedy="Choose another http_port under [monitoring], or the address of this machine.",
            ) from None
        self._thread = threading.Thread(target=self.serve_forever, name="monitoring", daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever asks may hang up, and the address is not the daemon's business."""

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server: _HttpServer
    server_version, sys_version = "salus", ""

    def do_GET(self) -> None:
        status, kind, body = 404, TEXT, b"not found\n"
        if self.path == "/healthz":
            status, body = 200, b"ok\n"
        elif self.path == "/readyz":
            status, body = (200, b"ready\n") if self.server.ready() else (503, b"not ready\n")
        elif self.path == "/metrics":
            status, kind, body = 200, METRICS, self.server.metrics()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: probes come every few seconds."""
