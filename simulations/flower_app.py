"""Our `ServerApp` and `ClientApp` for Flower's own engines, unchanged: `flwr run` and its Ray simulation (``salus[ray]``).

In the pyproject of a Flower app write::

    [tool.flwr.app.components]
    serverapp = "salus.simulations.flower_app:server_app"
    clientapp = "salus.simulations.flower_app:client_app"
    [tool.flwr.app.config]
    job = "job.toml"
    data = "toy.npz"
    sites = 4
    partition = "iid"
    folder = "run"

Engines without a run configuration (`run_simulation`) take the same values from the environment: SALUS_JOB, SALUS_DATA,
SALUS_SITES, SALUS_PARTITION, SALUS_FOLDER. The model is written to ``folder``, which must be the same path for all processes.

A masked session lives in one process, as it does at a real site. Flower's Ray engine distributes a node's messages over its
actors, so give a client all CPUs (``client_resources = {num_cpus = <all>}``), which creates one actor. With several actors,
sites refuse messages for which they have no session, and the round is abandoned.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from salus.client.app import make_client_app
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.site import Site
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError
from salus.common.events import EventLog
from salus.common.identity import Identity
from salus.common.job import load_job, seal_job
from salus.privacy.protocol.store import MemoryStore
from salus.server.app import make_server_app
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.server.federation import Federation
from salus.server.rounds import run_of
from salus.server.transcripts import Transcript
from salus.simulations.testing import split_evaluator
from salus.simulations.virtual import (
    OPEN_POLICY,
    PATIENCE_S,
    make_hospitals,
    open_catalogue,
    virtual_identity,
    virtual_keys,
)

KEY = "coordinator.key"
_sites: dict[tuple[Path, int], Site] = {}


@dataclass(frozen=True)
class Settings:
    """The job, the data and how they are divided."""

    job: Path
    data: Path
    sites: int
    partition: str
    folder: Path


def settings_of(config: Mapping[str, object]) -> Settings:
    """Return the settings from a run configuration or the environment; raises ConfigError if one is missing."""

    def value(name: str, default: str = "") -> str:
        found = config.get(name) or os.environ.get(f"SALUS_{name.upper()}", default)
        if not found:
            raise ConfigError(
                f"Expected {name!r} in the run configuration.", remedy=f"Set it, or SALUS_{name.upper()}."
            )
        return str(found)

    return Settings(
        Path(value("job")), Path(value("data")), int(value("sites")), value("partition", "iid"), Path(value("folder"))
    )


def _run(grid: Grid, context: Context) -> None:
    settings = settings_of(context.run_config)
    job = load_job(settings.job)
    coordinator = Identity.generate()
    make_hospitals(
        job,
        settings.data,
        SourceOptions(),
        sites=settings.sites,
        partition=settings.partition,
        seed=job.job.seed,
        folder=settings.folder,
    )
    secret = os.urandom(32)
    (settings.folder / KEY).write_text(f"{coordinator.public_key.hex()} {secret.hex()}")
    check_job(job, settings.sites)
    checkpoints = Checkpoints(settings.folder / "coordinator")
    signed = seal_job(job, coordinator)
    job_id = checkpoints.submit(signed, job.job.name)
    evaluate = split_evaluator(job, settings.folder, Performance(device="cpu"))

    def work(federation: Federation) -> None:
        attempts = Attempts(
            job,
            job_id,
            signed,
            federation,
            checkpoints,
            EventLog(settings.folder / "events.jsonl"),
            virtual_keys(secret, settings.sites),
            Transcript(settings.folder / "transcripts" / f"{job_id}.jsonl"),
            patience_s=PATIENCE_S,
        )
        run_of(attempts, evaluate).run()
        checkpoints.set_status(job_id, "finished")

    make_server_app(work)(grid, context)


def _site_of(context: Context) -> Site:
    settings = settings_of(context.run_config)
    number = int(context.node_config["partition-id"]) + 1
    if (settings.folder, number) not in _sites:
        coordinator_key, secret = (bytes.fromhex(part) for part in (settings.folder / KEY).read_text().split())
        _sites[settings.folder, number] = Site(
            site_id=number,
            identity=virtual_identity(secret, number),
            keys=virtual_keys(secret, settings.sites),
            store=MemoryStore(),
            coordinator_key=coordinator_key,
            catalogue=open_catalogue(settings.folder, number),
            policy=lambda: OPEN_POLICY,
            performance=Performance(threads=1),
            events=EventLog(settings.folder / f"site-{number}" / "events.jsonl"),
            ledger=Ledger(settings.folder / f"site-{number}" / "ledger.sqlite", SystemClock()),
            states=settings.folder / f"site-{number}" / "states",
            starts=settings.folder / f"site-{number}" / "starts",
        )
    return _sites[settings.folder, number]


server_app: ServerApp = ServerApp()
server_app.main()(_run)
client_app: ClientApp = make_client_app(_site_of)
