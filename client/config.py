"""A site's folder: its settings, keys, installed kit, catalogue and logs, and how they are opened together."""

import contextlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from salus.client.data.accepted import ACCEPTED
from salus.client.executors.settings import ExecutorSettings
from salus.client.performance import Performance
from salus.client.policy import load_policy
from salus.common.certificates import check_certificate, client_context
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError
from salus.common.events import EventSink
from salus.common.files import check_new_folder, write_whole
from salus.common.identity import Identity, load_private_key, save_secret, unhex
from salus.common.kit import NODE_KEY, SIGNING_KEY, TRANSPORT_KEY, MemberRequest, create_keys, write_json
from salus.common.logs import LogFormat
from salus.common.monitoring import MonitoringSettings
from salus.common.names import check_name
from salus.common.progress import Reporter
from salus.common.roster import Roster
from salus.common.strict import Strict, load_toml
from salus.common.trust import AUTHORITY, CERTIFICATE, TRUST, Trust

if TYPE_CHECKING:  # imported where they are used: a site at rest reads its settings, and nothing else
    from salus.client.data.catalogue import Catalogue
    from salus.client.data.dicom.isolation import Decoding
    from salus.client.ledger.store import Ledger
    from salus.client.site import Site

PSEUDONYM_KEY_BYTES = 32
CONFIG_TEMPLATE = """\
# Settings of this site. They affect speed and operation, never a guarantee; what this site allows is in policy.toml.
health_port = 0          # gRPC health service on loopback; 0 turns it off

[performance]
device = "auto"          # auto | cpu | cuda
mixed_precision = false
cache_mb = 4096          # prepared samples kept in memory
disk_cache_mb = 20000    # prepared samples kept on disk, in the folder cache
threads = 0              # CPU threads for training; 0 leaves the choice to torch
decode_memory_mb = 6144  # for the process that decodes images
max_job_memory_mb = 0    # a job that needs more memory is refused; 0: three quarters of this machine's memory

[executor]
kind = "process"         # process | slurm; work for jobs runs in a process of its own, which ends when there is none
idle_minutes = 10.0      # the process ends after so long without a request, and its memory is free
stuck_minutes = 120.0    # the process is ended if it shows no progress for so long during a request; 0: never
memory_mb = 0            # most memory of that process; 0: no limit
gpu_share = 1.0          # the part of a GPU's memory that it may use
hours = []               # local hours in which it begins to work, such as ["20:00-06:00"]; empty: always
"""
POLICY_TEMPLATE = """\
# What this site allows. Nothing the coordinator sends can widen it; an unreadable file refuses every job.
format = 1                  # of this file
allow_unprotected = false   # true lets the coordinator read this site's own update
allow_without_noise = false # true accepts jobs without differential privacy for patients
allow_distributed_noise = true  # the sites share the noise: privacy then needs enough honest sites
key_holders = []            # sites that may hold the key of encrypted jobs; they can read this site's update
tasks = []                  # kinds of tasks that may run; empty: every installed one
datasets = []               # data sets that may be used; empty: every registered one
max_rounds = 1000           # most rounds of a job
min_sites = 2               # fewest sites that a job may combine
share_progress = "percent"  # "step" hides percentages, whose pace can tell how many batches this site has; see docs/rounds.md

[budget]                    # what one patient may spend over all jobs together
epsilon = 10.0
delta = 1e-5
period_days = 365

[cohort_epochs]             # jobs without noise only: in one epoch all sums over a data set are over the same sites
# chest-xray = 1            # raise it when all operators agree on another set of sites; a data set not listed has epoch 0
"""


CACHE = "cache"
CATALOGUE = "catalogue.sqlite"
CHECKS = "checks.json"  # when checks of jobs were answered
STATES = "states"  # what a job keeps between rounds
LEDGER = "ledger.sqlite"
PSEUDONYM_KEY = "pseudonym.key"
REQUEST = "site.request"


class SiteConfig(Strict):
    """Settings of a site, from ``site.toml``.

    Args:
        health_port: port of the gRPC health service; 0 turns it off.
        reconnect_max_s: longest pause between two attempts to reach the coordinator, in seconds.
        decode_without_sandbox: decode files without a sandbox; the value states the risk and must be written exactly as shown.
            Empty: nothing is decoded without a sandbox.
        performance: settings that affect only speed and memory.
        executor: where work for jobs runs, and what it may use.
        monitoring: who may ask over HTTP how the daemon is doing.
        log_format: what the daemon prints: ``text`` for people, or ``json`` with the fields of an allow-list.
    """

    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    reconnect_max_s: Annotated[float, Field(gt=0)] = 60.0  # a restarted coordinator is found within a minute
    decode_without_sandbox: Literal["", ACCEPTED] = ""  # type: ignore[valid-type]  # needed only if the kernel offers no seccomp filter
    performance: Performance = Performance()
    executor: ExecutorSettings = ExecutorSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    log_format: LogFormat = "text"

    def decoding(self) -> "Decoding":
        """Return how this site decodes files."""
        from salus.client.data.dicom.isolation import Decoding
        from salus.client.data.sandbox import LAYERS

        layers = () if self.decode_without_sandbox else LAYERS
        return Decoding(layers=layers, memory_mb=self.performance.decode_memory_mb)


def init_site(folder: Path, name: str) -> MemberRequest:
    """Create a new site's folder with keys, a pseudonym key, commented settings and a membership request, and return the request.

    Raises:
        ConfigError: a name that is not allowed, or a folder that is not empty; nothing is written then.
    """
    try:
        check_name(name)
    except ValueError as problem:
        raise ConfigError(f"The site's name is not valid: {problem}.", remedy="Choose another name.") from None
    check_new_folder(folder, "site.toml", "keys")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = create_keys(folder, "site", name)
    save_secret(os.urandom(PSEUDONYM_KEY_BYTES), folder / "keys" / PSEUDONYM_KEY)
    write_whole(folder / "policy.toml", POLICY_TEMPLATE.encode())
    write_json(folder / REQUEST, request)
    write_whole(folder / "site.toml", CONFIG_TEMPLATE.encode())  # last: it marks the folder as complete
    return request


def pseudonym_key(folder: Path) -> bytes:
    """Return the site's pseudonym key after comparing it with the one that the ledger remembers.

    Raises:
        ConfigError: the folder is not a site's, or its key is missing or damaged.
        LedgerError: the ledger was started with another key.
    """
    from salus.client.ledger.key import bind_key

    secret = _stored_key(folder)
    bind_key(folder / LEDGER, secret)
    return secret


def require_site_folder(folder: Path) -> None:
    """Raise ConfigError unless a folder is a site's and has its pseudonym key."""
    _stored_key(folder)


def _stored_key(folder: Path) -> bytes:
    path = folder / "keys" / PSEUDONYM_KEY
    if not path.exists():
        if (folder / "site.toml").exists():
            raise ConfigError(
                f"Expected the key file {PSEUDONYM_KEY!r}.", remedy="Restore it from the backup of this site."
            )
        raise ConfigError(
            f"{folder.name!r} is not a site's folder.", remedy="Create one: salus client init FOLDER --name NAME."
        )
    secret = path.read_bytes()
    if len(secret) != PSEUDONYM_KEY_BYTES:
        raise ConfigError(
            f"Expected {PSEUDONYM_KEY_BYTES} bytes in {PSEUDONYM_KEY!r}, found {len(secret)}.",
            remedy="Restore it from the backup of this site.",
        )
    return secret


def _config(folder: Path) -> SiteConfig:
    settings = folder / "site.toml"
    return load_toml(SiteConfig, settings, error=ConfigError, what="site file") if settings.exists() else SiteConfig()


def open_catalogue(folder: Path) -> "Catalogue":
    """Open a site's catalogue; errors as in `pseudonym_key`."""
    from salus.client.data.catalogue import Catalogue

    config = _config(folder)
    return Catalogue(folder / CATALOGUE, pseudonym_key(folder), config.decoding())


def copied_catalogue(folder: Path, copy: Path) -> "Catalogue":
    """Open a copy of a site's catalogue as it is now, beside a running daemon, too; the site's ledger is not opened.

    Args:
        copy: a new file.

    Raises:
        ConfigError: as in `pseudonym_key`, or no catalogue that can be read.
    """
    import sqlite3

    from salus.client.data.catalogue import Catalogue

    config, secret = _config(folder), _stored_key(folder)
    source = folder / CATALOGUE
    if not source.is_file():
        raise ConfigError("This site has no data set yet.", remedy="Register one: salus dataset add.")
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as opened,
            contextlib.closing(sqlite3.connect(copy)) as written,
        ):
            opened.backup(written)
    except sqlite3.Error as problem:
        raise ConfigError(
            f"The site's catalogue cannot be read ({type(problem).__name__}).", remedy="Restore it from a backup."
        ) from None
    return Catalogue(copy, secret, config.decoding())


def open_ledger(folder: Path, clock: Clock) -> "Ledger":
    """Open a site's privacy ledger; errors as in `pseudonym_key`."""
    from salus.client.ledger.store import Ledger

    pseudonym_key(folder)
    return Ledger(folder / LEDGER, clock)


@dataclass
class SiteFolder:
    """Everything that the daemon needs, checked: settings, installed kit, identity, transport."""

    folder: Path
    config: SiteConfig
    trust: Trust
    identity: Identity
    node_key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "SiteFolder":
        """Read and check the folder.

        Raises:
            ConfigError, IdentityError: missing, damaged, expired or from another consortium; with the remedy.
        """
        if not (folder / "site.toml").exists():
            raise ConfigError(
                f"{folder.name!r} is not a site's folder.", remedy="Create one: salus client init FOLDER --name NAME."
            )
        config = load_toml(SiteConfig, folder / "site.toml", error=ConfigError, what="site file")
        load_policy(folder / "policy.toml")
        trust = Trust.open(folder, clock)
        identity = Identity.load(folder / "keys" / SIGNING_KEY)
        node_key = load_private_key(folder / "keys" / NODE_KEY)
        if not isinstance(node_key, ec.EllipticCurvePrivateKey):
            raise IdentityError("Expected an elliptic-curve node key.", remedy="Restore it from a backup.")
        check_certificate(folder / TRUST / CERTIFICATE, clock.now())
        return cls(folder, config, trust, identity, node_key)

    @property
    def roster(self) -> Roster:
        """The newest roster that is installed."""
        return self.trust.newest

    @property
    def site_id(self) -> int:
        """This site's id, which the consortium gave it."""
        return self.roster.id_of(self.identity.public_key)

    def renew(self) -> bool:
        """Use the kit that is installed now; return whether it is another one."""
        before, self.trust = self.trust, self.trust.current()
        return self.trust is not before

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context for the coordinator's port."""
        trust = self.folder / TRUST
        return client_context(trust / AUTHORITY, trust / CERTIFICATE, self.folder / "keys" / TRANSPORT_KEY)

    def site(self, events: EventSink, clock: Clock, reporter: Reporter | None = None) -> "Site":
        """Return the site that handles requests; this imports everything that training needs."""
        from salus.client.checking import CheckLimit
        from salus.client.rosters import JobRosters
        from salus.client.session_store import SqliteSessionStore
        from salus.client.site import Site
        from salus.common.start.store import STARTS

        return Site(
            site_id=self.site_id,
            identity=self.identity,
            keys=self.roster.keys(),
            store=SqliteSessionStore(self.folder / "sessions.sqlite"),
            coordinator_key=unhex(self.roster.coordinator.public_key),
            catalogue=open_catalogue(self.folder),
            policy=lambda: load_policy(self.folder / "policy.toml"),
            performance=self.config.performance,
            events=events,
            ledger=open_ledger(self.folder, clock),
            cache=self.folder / CACHE,
            rosters=JobRosters(self.folder / "rosters.sqlite", self.trust, self.identity.public_key),
            states=self.folder / STATES,
            starts=self.folder / STARTS,
            order=self.identity.sign("salus/training-order/1"),  # known to nobody else, and the same after a restart
            limit=CheckLimit(clock, self.folder / CHECKS),
            reporter=reporter,
        )
