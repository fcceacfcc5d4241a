"""A site's folder: its settings, keys, papers, catalogue and logs, and how they are opened together."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from salus.client.data.catalogue import Catalogue
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.policy import load_policy
from salus.client.session_store import SqliteSessionStore
from salus.client.site import Site
from salus.common.certificates import check_certificate, client_context
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError
from salus.common.events import EventSink
from salus.common.identity import Identity, load_private_key, unhex
from salus.common.kit import (
    AUTHORITY,
    CERTIFICATE,
    NODE_KEY,
    SIGNING_KEY,
    TRANSPORT_KEY,
    MemberRequest,
    create_keys,
    installed_roster,
)
from salus.common.roster import Roster, site_key
from salus.common.strict import Strict, load_toml

PSEUDONYM_KEY_BYTES = 32
CONFIG_TEMPLATE = """\
# Settings of this site. They change speed and operation, never what is learnt from whom: that is policy.toml.
health_port = 0          # gRPC health service on loopback; 0 is off

[performance]
device = "auto"          # auto | cpu | cuda
mixed_precision = false
cache_mb = 4096          # prepared samples kept in memory
disk_cache_mb = 20000    # and on disk, in the folder cache
threads = 0              # CPU threads for training; 0 leaves the choice to torch
"""
POLICY_TEMPLATE = """\
# What this site allows. Nothing the coordinator sends can widen it; an unreadable file refuses every job.
allow_unprotected = false   # true lets the coordinator read this site's own update
allow_without_noise = false # true accepts jobs without differential privacy for patients
allow_distributed_noise = true
key_holders = []            # sites that may hold the key of encrypted jobs; they can read this site's update
tasks = []                  # kinds of tasks that may run; empty: every installed one
datasets = []               # data sets that may be used; empty: every registered one
max_rounds = 1000
min_sites = 2
cohort_epoch = 0            # in one epoch all sums without noise over a data set are over the same sites

[budget]                    # what one patient may spend over all jobs together
epsilon = 10.0
delta = 1e-5
period_days = 365
"""


CACHE = "cache"


class SiteConfig(Strict):
    """``site.toml``."""

    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    reconnect_max_s: Annotated[float, Field(gt=0)] = 60.0  # a coordinator that comes back is found within a minute
    performance: Performance = Performance()


def init_site(folder: Path, name: str) -> MemberRequest:
    """Make a new site folder: keys, a pseudonym key and commented settings; returns the request for the consortium."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = create_keys(folder, "site", name)
    handle = os.open(folder / "keys" / "pseudonym.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(PSEUDONYM_KEY_BYTES))
    for file_name, text in (("site.toml", CONFIG_TEMPLATE), ("policy.toml", POLICY_TEMPLATE)):
        if not (folder / file_name).exists():
            (folder / file_name).write_text(text)
    return request


def open_catalogue(folder: Path) -> Catalogue:
    """Open a site's catalogue; raises ConfigError if the folder is not a site's."""
    key = folder / "keys" / "pseudonym.key"
    if not key.exists():
        raise ConfigError(
            f"{folder.name!r} is not a site's folder.", remedy="Make one: salus client init FOLDER --name NAME."
        )
    return Catalogue(folder / "catalogue.sqlite", key.read_bytes(), isolated=True)


def open_ledger(folder: Path, clock: Clock) -> Ledger:
    """Open a site's privacy ledger; raises ConfigError if the folder is not a site's."""
    if not (folder / "policy.toml").exists():
        raise ConfigError(f"{folder.name!r} is not a site's folder.", remedy="Make one: salus client init.")
    return Ledger(folder / "ledger.sqlite", clock)


@dataclass(frozen=True)
class SiteFolder:
    """Everything a daemon needs, checked: settings, roster, identity, transport."""

    folder: Path
    config: SiteConfig
    roster: Roster
    identity: Identity
    node_key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "SiteFolder":
        """Read and check the folder.

        Raises:
            ConfigError, IdentityError: missing, damaged, expired or from another consortium; with the remedy.
        """
        if not (folder / "site.toml").exists():
            raise ConfigError(f"{folder.name!r} is not a site's folder.", remedy="Make one: salus client init.")
        config = load_toml(SiteConfig, folder / "site.toml", error=ConfigError, what="site file")
        load_policy(folder / "policy.toml")
        roster = installed_roster(folder, clock)
        identity = Identity.load(folder / "keys" / SIGNING_KEY)
        node_key = load_private_key(folder / "keys" / NODE_KEY)
        if not isinstance(node_key, ec.EllipticCurvePrivateKey):
            raise IdentityError("Expected an elliptic-curve node key.", remedy="Make the site's folder again.")
        check_certificate(folder / "trust" / CERTIFICATE, clock.now())
        return cls(folder, config, roster, identity, node_key)

    @property
    def site_id(self) -> int:
        """This site's position on the roster."""
        return self.roster.id_of(self.identity.public_key)

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context for the coordinator's port."""
        trust = self.folder / "trust"
        return client_context(trust / AUTHORITY, trust / CERTIFICATE, self.folder / "keys" / TRANSPORT_KEY)

    def site(self, events: EventSink, clock: Clock) -> Site:
        """Return the site that handles requests."""
        return Site(
            site_id=self.site_id,
            identity=self.identity,
            keys={site_id: site_key(self.roster, site_id) for site_id in self.roster.site_ids()},
            store=SqliteSessionStore(self.folder / "sessions.sqlite"),
            coordinator_key=unhex(self.roster.coordinator.public_key),
            catalogue=open_catalogue(self.folder),
            policy=lambda: load_policy(self.folder / "policy.toml"),
            performance=self.config.performance,
            events=events,
            ledger=open_ledger(self.folder, clock),
            cache=self.folder / CACHE,
        )
