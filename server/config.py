"""The coordinator's folder: its settings, keys and installed kit."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import Field, field_validator

from salus.common.certificates import check_certificate, server_context
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError
from salus.common.files import check_new_folder, write_whole
from salus.common.identity import Identity
from salus.common.kit import SIGNING_KEY, TRANSPORT_KEY, MemberRequest, create_keys, write_json
from salus.common.logs import LogFormat
from salus.common.monitoring import MonitoringSettings
from salus.common.names import check_name
from salus.common.roster import Roster
from salus.common.strict import Strict, load_toml
from salus.common.trust import AUTHORITY, CERTIFICATE, TRUST, Trust
from salus.server.database import FILE, check_url, open_engine

ADMIN_SOCKET = "admin.sock"
REQUEST = "coordinator.request"
# A host name or an address, without characters that TOML or a certificate could misread.
HOST = re.compile(r"^[A-Za-z0-9.:_-]{1,253}$")
CONFIG_TEMPLATE = """\
# Settings of the coordinator.
listen = "{listen}"      # the address that sites connect to; 127.0.0.1 is reachable from this machine only
port = {port}
health_port = 0          # gRPC health service on loopback; 0 turns it off
# database = "postgresql+psycopg://salus@db.example.org/salus"   # instead of SQLite in this folder
# database_password_file = "database.password"
max_running_jobs = 4     # further jobs wait; each running one keeps its model and the sum of a round in memory
"""


class ServerConfig(Strict):
    """``server.toml``. The admin API has no port: it listens on a socket file that only this user can open.

    Args:
        listen: Address on which the coordinator accepts connections from sites.
        port: TCP port on which the coordinator accepts connections from sites.
        health_port: TCP port of the gRPC health service; 0 turns it off.
        max_running_jobs: Most jobs that run at once; further ones wait.
        database: URL of a PostgreSQL database, without the password; empty for a SQLite file in this folder.
        monitoring: Who may ask over HTTP how the daemon is doing, and read its metrics.
        log_format: What the daemon prints: ``text`` for people, or ``json`` with the fields of an allow-list.
        database_password_file: File with the database's password; empty for the environment variable SALUS_DATABASE_PASSWORD.
    """

    listen: str = "127.0.0.1"  # reachable from this machine only, unless set otherwise
    port: Annotated[int, Field(ge=1, le=65535)]
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    # Each running job keeps its model and the sum of a round in memory, and a site works for one job at a time.
    max_running_jobs: Annotated[int, Field(ge=1, le=64)] = 4
    database: Annotated[str, Field(max_length=500)] = ""
    database_password_file: Annotated[str, Field(max_length=1000)] = ""
    monitoring: MonitoringSettings = MonitoringSettings()
    log_format: LogFormat = "text"

    @field_validator("database")
    @classmethod
    def _checked(cls, value: str) -> str:
        if value:
            check_url(value)
        return value


def init_server(folder: Path, name: str, url: str, listen: str) -> MemberRequest:
    """Create a coordinator's folder and return its request to join the consortium, which is also written there.

    Raises:
        ConfigError: an invalid name, URL or address, or a folder that is not empty; nothing is written then.
    """
    port = _port_of(url)
    try:
        check_name(name)
    except ValueError as problem:
        raise ConfigError(f"The coordinator's name is not valid: {problem}.", remedy="Choose another name.") from None
    if not HOST.match(listen):
        raise ConfigError(
            f"Expected an address to listen on, such as 127.0.0.1 or 0.0.0.0, got {listen[:80]!r}.",
            remedy="Correct --listen.",
        )
    check_new_folder(folder, "server.toml", "keys")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = create_keys(folder, "coordinator", name, url.rstrip("/"))
    write_whole(folder / "server.toml", CONFIG_TEMPLATE.format(listen=listen, port=port).encode())
    write_json(folder / REQUEST, request)
    return request


def _port_of(url: str) -> int:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        parts, port = urlsplit(""), 0
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and parts.path in ("", "/")
    if parts.scheme != "https" or not HOST.match((parts.hostname or "").strip("[]")) or not plain or len(url) > 300:
        raise ConfigError(
            f"Expected a URL such as https://salus.example.org:8443, got {url[:120]!r}.", remedy="Correct --url."
        )
    return port


def database_of(folder: Path) -> sa.Engine | None:
    """Return an engine over the database of a coordinator's folder or of a simulation; None if there is none yet."""
    config = ServerConfig(port=1)
    if (folder / "server.toml").exists():
        config = load_toml(ServerConfig, folder / "server.toml", error=ConfigError, what="server file")
    if not config.database and not (folder / FILE).exists():
        return None
    return open_engine(folder, config.database, config.database_password_file)


@dataclass
class ServerFolder:
    """The daemon's configuration, trust and keys, all checked."""

    folder: Path
    config: ServerConfig
    trust: Trust
    identity: Identity

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "ServerFolder":
        """Read and check the folder; raises ConfigError or IdentityError."""
        if not (folder / "server.toml").exists():
            raise ConfigError(
                f"{folder.name!r} is not a coordinator's folder.", remedy="Create one with `salus server init`."
            )
        config = load_toml(ServerConfig, folder / "server.toml", error=ConfigError, what="server file")
        trust = Trust.open(folder, clock)
        check_certificate(folder / TRUST / CERTIFICATE, clock.now())
        identity = Identity.load(folder / "keys" / SIGNING_KEY)
        if identity.public_key.hex() != trust.newest.coordinator.public_key:
            raise IdentityError(
                "The coordinator's key on the roster is not the key in this folder.",
                remedy="Install the kit that the consortium issued for this coordinator.",
            )
        return cls(folder, config, trust, identity)

    def engine(self) -> sa.Engine:
        """Return an engine over the coordinator's database, see `open_engine`."""
        return open_engine(self.folder, self.config.database, self.config.database_password_file)

    @property
    def roster(self) -> Roster:
        """The newest roster that is installed."""
        return self.trust.newest

    def renew(self) -> bool:
        """Use the kit that is installed now; return whether it is another one. Errors as in `open`; then nothing changes."""
        if not self.trust.replaced:
            return False
        self.trust = ServerFolder.open(self.folder, self.trust.clock).trust
        return True

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context of the port for sites."""
        trust = self.folder / TRUST
        return server_context(trust / AUTHORITY, trust / CERTIFICATE, self.folder / "keys" / TRANSPORT_KEY)

    def node_keys(self) -> dict[int, str]:
        """Return the node key of each site on the roster."""
        return {site_id: self.roster.site(site_id).node_key for site_id in self.roster.site_ids()}
