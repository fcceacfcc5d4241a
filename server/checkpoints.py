"""What survives `kill -9` of the coordinator: jobs, attempts, rounds and models, in a database and in safetensors files.

An attempt is written before anything is sent, so that no attempt number is used twice; a round is written after its
model file is on disk, so that a recorded round always has its model.
"""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from salus.common.declaration import Declaration
from salus.common.errors import JobError, RoundError, StorageError, storage_error
from salus.common.files import replace_whole
from salus.common.identity import Signed
from salus.common.job import Job, job_from_canonical
from salus.common.strategies.base import State
from salus.common.strict import validate
from salus.common.tensors import Array
from salus.common.vectors import STATE_PREFIX, FloatVector, Layout
from salus.common.versions import MODEL_FORMAT, check_model_format
from salus.server.database import Claim, open_engine, patient
from salus.server.restored import restored
from salus.server.tables import ATTEMPTS, COHORTS, DECLARATIONS, JOBS, ROUNDS

METADATA_OF_FILE = {"format": str(MODEL_FORMAT)}
LEAST_ROOM_BYTES = 2**20  # a disk with less space than this counts as full

STOPPED = ("failed", "cancelled", "paused")
ACTIVE = ("waiting", "running")


@dataclass(frozen=True)
class JobRow:
    """A submitted job and its status: waiting, running, finished, failed, cancelled, paused or aborted.

    Args:
        roster: hash of the roster with which it began; empty while waiting.
    """

    job_id: str
    signed: Signed
    status: str
    reason: str
    submitted_at: str
    roster: str = ""

    @property
    def job(self) -> Job:
        """The job itself."""
        return job_from_canonical(self.signed.document.encode())


class Checkpoints:
    """The coordinator's stored state; callable from several threads.

    Args:
        folder: of the models, and of the SQLite file.
        engine: the database; None for the SQLite file.
    """

    def __init__(self, folder: Path, engine: sa.Engine | None = None) -> None:
        self._folder, self._engine = folder, engine or open_engine(folder)
        self._claim = Claim(self._engine)
        self._restored = restored(folder)
        self._numbers = threading.Lock()  # a job's number is the next one
        self._cohorts: dict[str, tuple[int, ...]] = {}  # read several times a sum, and never changed
        self.stopping = threading.Event()  # set when nobody should wait for the database any longer
        self._room_bytes = LEAST_ROOM_BYTES  # grows with the models, so that a job stops before a model no longer fits

    def claim(self) -> None:
        """Make sure that no other coordinator uses the database; raises DatabaseTaken or DatabaseGone, see `Claim`."""
        self._claim.hold()

    def close(self) -> None:
        """Close the connections to the database."""
        self.stopping.set()
        self._claim.end()
        self._engine.dispose()

    def submit(self, signed: Signed, name: str) -> str:
        """Record a new job and return its id, which is never reused."""
        with self._numbers, self._engine.begin() as connection:
            last = connection.scalar(sa.select(sa.func.max(JOBS.c.number))) or 0
            number = max(last + 1, self._restored.first_job)
            job_id = f"{name}-{number:04d}"
            connection.execute(
                JOBS.insert().values(
                    number=number,
                    job_id=job_id,
                    signed=signed.to_bytes().decode(),
                    status="waiting",
                    submitted_at=datetime.now(UTC).isoformat(),
                )
            )
        return job_id

    def jobs(self) -> list[JobRow]:
        """Return all jobs, oldest first."""
        with self._engine.connect() as connection:
            return [_row(row) for row in connection.execute(sa.select(JOBS).order_by(JOBS.c.number))]

    def job(self, job_id: str) -> JobRow:
        """Return one job; raises RoundError for an unknown id."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.job_id == job_id)).first()
        if row is None:
            raise RoundError(f"There is no job {job_id[:80]!r}.", remedy="See `salus job list`.")
        return _row(row)

    def active(self) -> list[JobRow]:
        """Return the jobs that have not ended, oldest first."""
        mine = sa.select(JOBS).where(JOBS.c.status.in_(ACTIVE)).order_by(JOBS.c.number)
        with self._engine.connect() as connection:
            return [_row(row) for row in connection.execute(mine)]

    def set_status(self, job_id: str, status: str, reason: str = "") -> None:
        """Record a job's status; a job that has ended changes only through `reopen`."""
        reason = reason.replace("\0", "").encode("utf-8", "replace").decode()  # a database takes no other text
        with self._engine.begin() as connection:
            mine = sa.and_(JOBS.c.job_id == job_id, JOBS.c.status.in_(ACTIVE))
            connection.execute(JOBS.update().where(mine).values(status=status, reason=reason))

    def clear_reason(self, job_id: str) -> None:
        """Forget the reason beside a job's status."""
        with self._engine.begin() as connection:
            connection.execute(JOBS.update().where(JOBS.c.job_id == job_id).values(reason=""))

    def reopen(self, job_id: str) -> None:
        """Queue a failed, cancelled or paused job again; its finished rounds stay. Raises JobError for any other job."""
        status = self.job(job_id).status
        if status not in STOPPED:
            raise JobError(
                f"Expected a failed, cancelled or paused job, but {job_id!r} is {status}.",
                remedy="A waiting or running job continues by itself, and a finished or aborted job cannot be resumed.",
            )
        with self._engine.begin() as connection:
            mine = sa.and_(JOBS.c.job_id == job_id, JOBS.c.status.in_(STOPPED))
            connection.execute(JOBS.update().where(mine).values(status="waiting", reason=""))

    def abort(self, job_id: str, reason: str) -> None:
        """End a job for good; raises JobError for one that has finished or was aborted already."""
        with self._engine.begin() as connection:
            mine = sa.and_(JOBS.c.job_id == job_id, JOBS.c.status.in_(ACTIVE + STOPPED))
            changed = connection.execute(JOBS.update().where(mine).values(status="aborted", reason=reason)).rowcount
        if not changed:
            raise JobError(
                f"Expected a job that has not ended for good, but {job_id!r} is {self.job(job_id).status}.",
                remedy="There is nothing to abort.",
            )

    def begin(self, job_id: str, roster: str) -> str:
        """Record that a job is running and with which roster; return the roster of its first attempt, or this one before it."""
        with self._engine.begin() as connection:
            mine, unasked = JOBS.c.job_id == job_id, ~sa.exists().where(ATTEMPTS.c.job_id == job_id)
            connection.execute(JOBS.update().where(mine, sa.or_(JOBS.c.roster == "", unasked)).values(roster=roster))
            connection.execute(JOBS.update().where(mine, JOBS.c.status.in_(ACTIVE)).values(status="running", reason=""))
        return self.job(job_id).roster

    @patient
    def attempted(self, job_id: str) -> bool:
        """Return whether any site was asked for a sum of a job; before that, its roster may be replaced."""
        with self._engine.connect() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(ATTEMPTS.c.job_id == job_id))))

    @patient
    def begin_attempt(self, job_id: str, round_: int) -> int:
        """Reserve and return the next attempt number of a round, from 0; on disk when this returns."""
        with self._engine.begin() as connection:
            mine = sa.and_(ATTEMPTS.c.job_id == job_id, ATTEMPTS.c.round == round_)
            last = connection.scalar(sa.select(sa.func.max(ATTEMPTS.c.attempt)).where(mine))
            attempt = max(0 if last is None else last + 1, self._restored.first_attempt)
            connection.execute(ATTEMPTS.insert().values(job_id=job_id, round=round_, attempt=attempt))
        return attempt

    def check_writable(self, job_id: str) -> None:
        """Check, before hours of work, that this machine can write the job's records, model, transcript and report.

        Raises:
            StorageError: it cannot; nothing was changed.
        """
        with self._engine.begin() as connection:
            connection.execute(JOBS.update().where(JOBS.c.job_id == job_id).values(reason=JOBS.c.reason))  # no change
        for name in (f"models/{job_id}", "transcripts", "reports"):
            probe = self._folder / name / ".probe"
            try:
                probe.parent.mkdir(parents=True, exist_ok=True)
                with probe.open("wb") as file:
                    file.write(bytes(self._room_bytes))
                    file.flush()
                    os.fsync(file.fileno())
                probe.unlink()
            except OSError as problem:
                probe.unlink(missing_ok=True)
                raise storage_error(problem) or problem from None

    @patient
    def set_cohort(self, scope: str, sites: Sequence[int]) -> None:
        """Store the sites for which a sum over a data set is announced; the first set of a scope is kept."""
        with self._engine.begin() as connection:
            if connection.scalar(sa.select(COHORTS.c.sites).where(COHORTS.c.scope == scope)) is None:
                connection.execute(COHORTS.insert().values(scope=scope, sites=json.dumps(sorted(sites))))

    @patient
    def cohort(self, scope: str) -> tuple[int, ...]:
        """Return the sites of a scope's sums, empty before the first."""
        if not (known := self._cohorts.get(scope, ())):
            with self._engine.connect() as connection:
                sites = connection.scalar(sa.select(COHORTS.c.sites).where(COHORTS.c.scope == scope))
            known = self._cohorts[scope] = tuple(json.loads(sites)) if sites else ()
        return known

    def put_declarations(self, site_key: str, declared: Mapping[str, Declaration | None], at: str) -> None:
        """Store what a site has declared, for checks while it cannot be asked."""
        plain = {name: None if found is None else found.model_dump(mode="json") for name, found in declared.items()}
        row = {"site_key": site_key, "declared": json.dumps(plain), "heard_at": at}
        with self._engine.begin() as connection:
            connection.execute(sa.delete(DECLARATIONS).where(DECLARATIONS.c.site_key == site_key))
            connection.execute(DECLARATIONS.insert().values(row))

    def declarations(self, site_key: str) -> tuple[dict[str, Declaration | None], str] | None:
        """Return what a site declared and when it was received; None if unknown or written in another version's format."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DECLARATIONS).where(DECLARATIONS.c.site_key == site_key)).first()
        if row is None:
            return None
        try:
            plain = json.loads(row.declared).items()
            found = {
                name: None if value is None else validate(Declaration, value, error=RoundError, what="declaration")
                for name, value in plain
            }
        except (RoundError, ValueError):
            return None
        return found, row.heard_at

    def save_round(
        self,
        job_id: str,
        round_: int,
        layout: Layout,
        model: FloatVector,
        state: State,
        record: Mapping[str, object],
        frozen: Mapping[str, Array] = MappingProxyType({}),
    ) -> Path:
        """Write the model after a round, then the round's record; returns the model's file.

        Args:
            frozen: parameters that are not in the layout and belong into the file.
        """
        path = self.model_path(job_id, round_)
        tensors: dict[str, npt.NDArray[np.generic]] = {**frozen, **layout.unflatten(model)}
        tensors |= {STATE_PREFIX + name: array for name, array in state.items()}
        self._room_bytes = max(self._room_bytes, LEAST_ROOM_BYTES + sum(array.nbytes for array in tensors.values()))
        _write_durably(path, tensors)
        self.save_record(job_id, round_, record)
        for old in range(round_ - 1):  # keep the newest two, so that they can be compared
            self.model_path(job_id, old).unlink(missing_ok=True)
        return path

    @patient
    def save_record(self, job_id: str, round_: int, record: Mapping[str, object]) -> None:
        """Write the record of a round, replacing an earlier one."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(ROUNDS).where(ROUNDS.c.job_id == job_id, ROUNDS.c.round == round_))
            connection.execute(ROUNDS.insert().values(job_id=job_id, round=round_, record=json.dumps(record)))

    @patient
    def records(self, job_id: str) -> list[dict[str, object]]:
        """Return the records of a job's rounds, in order."""
        with self._engine.connect() as connection:
            rows = connection.scalars(
                sa.select(ROUNDS.c.record).where(ROUNDS.c.job_id == job_id).order_by(ROUNDS.c.round)
            )
            return [json.loads(row) for row in rows]

    def load_model(self, job_id: str, round_: int, layout: Layout) -> tuple[FloatVector, State]:
        """Return model and strategy state after a round; raises RoundError if the file is damaged."""
        path = self.model_path(job_id, round_)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata()
            tensors = load_file(path)
            model = layout.flatten({spec.name: tensors[spec.name] for spec in layout.specs})
        except (OSError, SafetensorError, KeyError, ValueError):
            raise RoundError(
                f"The checkpoint {path.name!r} cannot be read.",
                remedy="Restore it from a backup, or submit the job again.",
            ) from None
        check_model_format(metadata, path.name, error=RoundError)
        return model, {k.removeprefix(STATE_PREFIX): v for k, v in tensors.items() if k.startswith(STATE_PREFIX)}

    def model_path(self, job_id: str, round_: int) -> Path:
        """Return where the model after a round is kept."""
        return self._folder / "models" / job_id / f"round-{round_:05d}.safetensors"

    def sums_model_path(self, job_id: str) -> Path:
        """Return where the signed model of a job of sums is kept."""
        return self._folder / "models" / job_id / "model.json"


def _row(row: sa.Row[tuple[object, ...]]) -> JobRow:
    signed = Signed.model_validate_json(row.signed)
    return JobRow(row.job_id, signed, row.status, row.reason, row.submitted_at, row.roster)


def _write_durably(path: Path, tensors: dict[str, npt.NDArray[np.generic]]) -> None:
    """Write tensors to a safetensors file as `replace_whole` does, in a folder that may not exist yet. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        replace_whole(path, lambda beside: save_file(whole, beside, METADATA_OF_FILE))
    except OSError as problem:
        raise storage_error(problem) or problem from None
    except SafetensorError:  # how safetensors reports a write that failed
        raise StorageError(
            f"The model {path.name!r} cannot be written: the disk may be full.",
            remedy="Free some space; the job resumes after the last complete round.",
        ) from None
