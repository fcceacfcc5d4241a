"""A finished job where it ran: in a coordinator's folder, or in the folder that ``salus simulate --output`` kept."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, JobError
from salus.common.events import Event, read_events
from salus.common.files import write_whole
from salus.common.identity import Identity, Signed, unhex
from salus.common.job import Job, open_job
from salus.common.kit import SIGNING_KEY, read_kit
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.common.start.weights import Weights
from salus.common.trust import KIT, TRUST
from salus.privacy.records.transcripts import roster_in
from salus.server.checkpoints import Checkpoints
from salus.server.config import database_of
from salus.server.database import FILE

EXPORTED = (
    "exported.json"  # in the folder of a run: where each job's newest package was written, as seen from that folder
)
SIMULATED = "coordinator"  # the coordinator's folder inside that of a simulation


@dataclass(frozen=True)
class FinishedRun:
    """A finished job and everything that was kept of it.

    Args:
        signed: the job as the sites received it.
        signed_roster: with which it began.
        records: of its rounds.
        events: of this job.
        start: the weights with which it began; None for a job without a start.
    """

    job_id: str
    job: Job
    signed: Signed
    signed_roster: Signed
    consortium_key: bytes
    coordinator: Identity
    checkpoints: Checkpoints
    transcript: bytes
    records: list[dict[str, object]]
    events: list[Event]
    start: Weights | None = None

    @property
    def model(self) -> Path:
        """The final model's file."""
        if self.job.statistics is not None:
            return self.checkpoints.sums_model_path(self.job_id)
        return self.checkpoints.model_path(self.job_id, self.job.job.rounds)


def open_run(folder: Path, job_id: str = "") -> FinishedRun:
    """Return a finished job of a folder.

    Args:
        job_id: may be empty if the folder has one finished job.

    Raises:
        ConfigError: no such folder or job, or a simulation of an older version, which kept no keys.
        JobError: the job is not finished, or it has no model.
    """
    home = folder / SIMULATED if (folder / SIMULATED / FILE).exists() else folder
    if (database := database_of(home)) is None:
        raise ConfigError(
            f"{folder.name!r} is neither a coordinator's folder nor that of a simulation.",
            remedy="Give the folder of salus simulate --output, or the coordinator's folder.",
        )
    if not (home / TRUST / KIT).exists() or not (home / "keys" / SIGNING_KEY).exists():
        raise ConfigError(
            f"{folder.name!r} has no key of a coordinator, or no kit of a consortium.",
            remedy="Run the simulation again with this version of Salus, or install the coordinator's kit.",
        )
    checkpoints = Checkpoints(home, database)
    row = checkpoints.job(job_id or _only(checkpoints))
    if row.status != "finished":
        raise JobError(f"The job {row.job_id!r} is {row.status}.", remedy="Wait until it has finished.")
    coordinator = Identity.load(home / "keys" / SIGNING_KEY)
    job, _ = open_job(row.signed, coordinator.public_key)
    transcript = folder / "transcripts" / f"{row.job_id}.jsonl"
    if not transcript.exists():
        raise ConfigError(
            f"The transcript {transcript.name!r} is missing.", remedy="Restore it from a backup of this folder."
        )
    data, log = transcript.read_bytes(), folder / "events.jsonl"
    return FinishedRun(
        row.job_id,
        job,
        row.signed,
        roster_in(data, transcript.name),
        unhex(read_kit(home / TRUST / KIT).consortium_key),
        coordinator,
        checkpoints,
        data,
        checkpoints.records(row.job_id),
        [event for event in read_events(log) if event.fields.get("job") == row.job_id],
        CoordinatorStarts(home / STARTS).of(job),
    )


def note_export(folder: Path, job_id: str, package: Path) -> None:
    """Note in the folder of a run where the package of a job was written."""
    with suppress(OSError, ValueError):  # a folder that cannot be written to: then every command is given the package
        found = {**_exported(folder), job_id: os.path.relpath(package, folder)}
        write_whole(folder / EXPORTED, canonical_json({"format": 1, "packages": found}))


def exported_package(folder: Path, job_id: str) -> Path:
    """Return where the newest package of a job was written; raises ConfigError if that is not known."""
    place = _exported(folder).get(job_id)
    if place is None or not (folder / place).exists():
        raise ConfigError(
            f"No package of the job {job_id!r} is known in {folder.name!r}.",
            remedy="Name the package, or write one with salus model export.",
        )
    return Path(os.path.normpath(folder / place))


def _exported(folder: Path) -> dict[str, str]:
    """Return the places of packages by job; what is damaged is left out."""
    file = folder / EXPORTED
    try:
        found = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    packages = found.get("packages") if isinstance(found, dict) else None
    return {
        str(job): place
        for job, place in (packages if isinstance(packages, dict) else {}).items()
        if isinstance(place, str)
    }


def _only(checkpoints: Checkpoints) -> str:
    finished = [row.job_id for row in checkpoints.jobs() if row.status == "finished"]
    if len(finished) != 1:
        listed = ", ".join(finished[-5:]) or "none"
        raise ConfigError(f"Expected one finished job, found {listed}.", remedy="Name the job: --job ID.")
    return finished[0]
