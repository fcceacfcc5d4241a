"""The standard gRPC health service, which Kubernetes can probe; off unless a port is configured."""

from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from salus.common.errors import ConfigError

DATA = "salus.data"  # separate from the daemon's own state: the restart after a failed probe would not repair a disk


class HealthServer:
    """Serves ``grpc.health.v1.Health``, on loopback by default; without TLS, because it says only SERVING or NOT_SERVING."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._servicer = health.HealthServicer()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            raise ConfigError(f"The health port {port} is in use.", remedy="Choose another health_port.")
        self.set(serving=False)
        self._server.start()

    def set(self, *, serving: bool, service: str = "") -> None:
        """Set whether this daemon is working.

        Args:
            service: empty for the daemon as a whole; `DATA` for a site's data sets.
        """
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._servicer.set(service, status)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop(grace=None).wait(5)
