"""The command line's client of the local admin API."""

import os
from pathlib import Path
from typing import Any

import httpx

from salus.common.errors import ConfigError, LinkError, RoundError, SalusError
from salus.server.config import ADMIN_SOCKET

TIMEOUT_S = 600.0  # on the same machine: a stopped daemon refuses at once, and a busy one is worth waiting for


class AdminClient:
    """Talks to the coordinator's daemon of one folder; raises LinkError if it is not running."""

    def __init__(self, folder: Path, timeout_s: float = TIMEOUT_S) -> None:
        path = folder / ADMIN_SOCKET
        # The kernel limits socket paths to about 100 bytes; a relative path is usually short enough.
        short = min(str(path), os.path.relpath(path), key=len)
        self._socket = short
        self._folder, self._timeout_s = folder, timeout_s

    def get(self, path: str, **query: int) -> Any:
        """Return the answer to a GET."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: str = "", **query: bool) -> Any:
        """Return the answer to a POST."""
        return self._call("POST", path, content=body.encode(), params=query)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        transport = httpx.HTTPTransport(uds=self._socket, verify=False)  # no TLS: a socket file of this user
        try:
            with httpx.Client(transport=transport, base_url="http://coordinator", timeout=self._timeout_s) as client:
                response = client.request(method, path, **arguments)
        except httpx.HTTPError:
            if not (self._folder / "server.toml").exists():
                raise ConfigError(
                    f"{self._folder.name!r} is not a coordinator's folder.",
                    remedy="Give the folder that `salus server init` created; --help shows the order of the arguments.",
                ) from None
            raise LinkError(
                "The coordinator's daemon does not answer.", remedy="Start it with `salus server start FOLDER`."
            ) from None
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise LinkError(
                "The coordinator's daemon is stopping.",
                remedy="Start it again, see what it has done, and repeat the command.",
            )
        values = response.json()
        if response.status_code == 400:
            raise _as_error(values)
        if response.is_error:
            raise RoundError(f"The coordinator answered with status {response.status_code}.", remedy="See its log.")
        return values


def _as_error(values: dict[str, Any]) -> SalusError:
    problem = SalusError(str(values["error"]), remedy="")
    problem.exit_code = int(values["exit_code"])
    return problem
