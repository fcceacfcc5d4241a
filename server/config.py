"""The coordinator's folder: its settings, keys and papers, and how they are opened together."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from salus.common.certificates import check_certificate, server_context
from salus.common.clock import Clock
from salus.common.errors import ConfigError
from salus.common.identity import Identity
from salus.common.kit import (
    AUTHORITY,
    CERTIFICATE,
    SIGNING_KEY,
    TRANSPORT_KEY,
    MemberRequest,
    create_keys,
    installed_roster,
)
from salus.common.roster import Roster
from salus.common.strict import Strict, load_toml

ADMIN_SOCKET = "admin.sock"
CONFIG_TEMPLATE = """\
# Settings of the coordinator.
listen = "{listen}"      # the address hospitals reach; 127.0.0.1 serves this machine only
port = {port}
health_port = 0          # gRPC health service on loopback; 0 is off
"""


class ServerConfig(Strict):
    """``server.toml``. The admin API has no port: it listens on a socket file that only this user can open."""

    listen: str = "127.0.0.1"  # nothing is offered to a network unless it is written here
    port: Annotated[int, Field(ge=1, le=65535)]
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0


def init_server(folder: Path, name: str, url: str, listen: str) -> MemberRequest:
    """Make a new coordinator's folder and return its request for the consortium; raises ConfigError for a wrong URL."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"Expected a URL such as https://salus.example.org:8443, got {url!r}.", remedy="Correct it.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = create_keys(folder, "coordinator", name, url.rstrip("/"))
    (folder / "server.toml").write_text(CONFIG_TEMPLATE.format(listen=listen, port=parts.port or 443))
    return request


@dataclass(frozen=True)
class ServerFolder:
    """Everything the daemon needs, checked."""

    folder: Path
    config: ServerConfig
    roster: Roster
    identity: Identity

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "ServerFolder":
        """Read and check the folder; raises ConfigError or IdentityError with the remedy."""
        if not (folder / "server.toml").exists():
            raise ConfigError(f"{folder.name!r} is not a coordinator's folder.", remedy="Make one: salus server init.")
        config = load_toml(ServerConfig, folder / "server.toml", error=ConfigError, what="server file")
        roster = installed_roster(folder, clock)
        check_certificate(folder / "trust" / CERTIFICATE, clock.now())
        return cls(folder, config, roster, Identity.load(folder / "keys" / SIGNING_KEY))

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context of the hospitals' port."""
        trust = self.folder / "trust"
        return server_context(trust / AUTHORITY, trust / CERTIFICATE, self.folder / "keys" / TRANSPORT_KEY)

    def node_keys(self) -> dict[int, str]:
        """Return the node key of each site on the roster."""
        return {site_id: self.roster.site(site_id).node_key for site_id in self.roster.site_ids()}
