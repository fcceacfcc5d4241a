"""A backup of a coordinator, also while it runs: the database as of one moment, and every file that belongs to it.

    backup.json          format, files with SHA-256, jobs; written last, so a backup without it is incomplete
    coordinator.sqlite   the database; a logical copy if the coordinator uses PostgreSQL
    files/               settings, keys, rosters, models, transcripts, reports, starts, logs

A model is on disk before the record of its round, and is deleted only two rounds later. So the database is copied first, and
hard links keep the models of that moment while they are copied. Transcripts only grow: a copy may hold the beginning of a
later attempt, as after a crash.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar

import sqlalchemy as sa
from pydantic import AfterValidator, Field

from salus import __version__
from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import ConfigError, StorageError, storage_error
from salus.common.files import check_new_folder, drop_half_line, sync, write_whole
from salus.common.lock import NAME as LOCK
from salus.common.sqlite import open_sqlite
from salus.common.strict import Strict
from salus.server.checkpoints import ACTIVE, Checkpoints
from salus.server.config import ADMIN_SOCKET, database_of
from salus.server.database import FILE, open_engine
from salus.server.tables import METADATA

MANIFEST, FILES = "backup.json", "files"
STAGE = ".backup-"
UNFINISHED = (*ACTIVE, "paused")
TRIES = 20  # a job whose rounds end faster than its models can be linked
CHUNK = 2**20
MOST_PARTS = 16  # of a path in a backup


def _relative(name: str) -> str:
    """Check a path in a backup: names only, never a step upwards, and not the database, which is a file of its own."""
    parts = name.split("/")
    if len(parts) > MOST_PARTS or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError("expected a path below the coordinator's folder")
    if parts[0].startswith(FILE):
        raise ValueError("expected the database beside the files")
    return name


Relative = Annotated[str, Field(max_length=1000), AfterValidator(_relative)]


class Entry(Strict):
    """One file.

    Args:
        sha256: Hash of its content, in hexadecimal.
        bytes: Its size.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=2**50)]


class Saved(Strict):
    """One job as of the backup.

    Args:
        status: As in `salus job list`.
        rounds: Finished rounds.
    """

    status: Annotated[str, Field(max_length=20)]
    rounds: Annotated[int, Field(ge=0, le=2**31)]


class Manifest(Strict):
    """What is in a backup.

    Args:
        format: Version of the format.
        salus: Version of Salus that wrote it.
        made_at: When, ISO 8601.
        database: The database's file.
        files: Every other file, by its path in the coordinator's folder.
        jobs: Every job, by its id.
    """

    newest_format: ClassVar[int] = 1
    format: int = 1
    salus: Annotated[str, Field(max_length=100)]
    made_at: Annotated[str, Field(max_length=40)]
    database: Entry
    files: Annotated[dict[Relative, Entry], Field(max_length=1_000_000)]
    jobs: Annotated[dict[Annotated[str, Field(max_length=200)], Saved], Field(max_length=1_000_000)]

    @property
    def made(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.made_at)


def backup(folder: Path, target: Path, clock: Clock) -> Manifest:
    """Write a backup of a coordinator into a new folder; its daemon may be running.

    Guarantees: readable by its owner only. A backup that does not end is removed, or has no `MANIFEST`.

    Raises:
        ConfigError: no coordinator's folder, or a target that is not new or lies inside it.
        StorageError: something cannot be read or written.
    """
    database = database_of(folder) if (folder / "server.toml").exists() else None
    if database is None:
        raise ConfigError(
            f"{folder.name!r} is not the folder of a coordinator that has been started.",
            remedy="Give the folder that `salus server init` created.",
        )
    inside = {target.resolve(), *target.resolve().parents}
    if folder.resolve() in inside or any(entry.resolve() in inside for entry in folder.iterdir() if entry.is_dir()):
        raise ConfigError("A backup cannot lie inside the folder that it is of.", remedy="Choose another folder.")
    check_new_folder(target)
    made = not target.exists()
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.chmod(0o700)
    try:
        with _stage(folder) as stage:
            at = clock.now()
            jobs = _snapshot(folder, database, target / FILE, stage)
            files = {}
            for path in _files(folder, stage):
                name = _checked(path.relative_to(stage if stage in path.parents else folder).as_posix())
                if (entry := _copied(path, target / FILES / name)) is not None:
                    files[name] = entry
        manifest = Manifest(
            salus=__version__, made_at=at.isoformat(), database=entry_of(target / FILE), files=files, jobs=jobs
        )
        write_whole(target / MANIFEST, canonical_json(manifest.model_dump(mode="json")) + b"\n")
        (target / MANIFEST).chmod(0o600)
    except BaseException as problem:
        for left in (target / FILES, target) if made else (target / FILES,):
            shutil.rmtree(left, ignore_errors=True)
        (target / FILE).unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise storage_error(problem) or problem from None
        raise
    finally:
        database.dispose()
    return manifest


@contextlib.contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """Make a folder for links beside the models; one that a killed backup has left is removed."""
    for old in folder.glob(f"{STAGE}*"):
        with contextlib.suppress(OSError), _locked(old):
            shutil.rmtree(old)
    stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=folder))
    try:
        with _locked(stage):
            yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _snapshot(folder: Path, database: sa.Engine, copy: Path, stage: Path) -> dict[str, Saved]:
    """Copy the database, and link the models that belong to it into `stage`; return the jobs."""
    for _ in range(TRIES):
        copy.unlink(missing_ok=True)
        copy_database(database, copy)
        _link(folder / "models", stage / "models")
        engine = open_sqlite(copy)
        store = Checkpoints(stage, engine)
        jobs, complete = {}, True
        for row in store.jobs():
            rounds = len(store.records(row.job_id))
            jobs[row.job_id] = Saved(status=row.status, rounds=rounds)
            resumes = row.status in UNFINISHED and rounds and row.job.statistics is None
            complete = complete and (not resumes or store.model_path(row.job_id, rounds).exists())
        engine.dispose()
        _one_file(copy)
        if complete:
            return jobs
        shutil.rmtree(stage / "models")
    raise StorageError(
        "The newest model of a running job is missing, or was replaced each time before it could be kept.",
        remedy="Try again; if that does not help, stop the coordinator during the backup.",
    )


def copy_database(source: sa.Engine, copy: Path) -> None:
    """Write the database, as of one moment, into a new SQLite file; other processes may use it meanwhile."""
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if source.dialect.name == "sqlite":
        connection = source.raw_connection()
        into = sqlite3.connect(copy)
        try:
            original = connection.driver_connection
            assert isinstance(original, sqlite3.Connection)  # Safe because of the dialect.
            original.backup(into)
        finally:
            into.close()
            connection.close()
        return
    engine = open_engine(copy.parent)
    try:
        move_rows(source, engine)
    finally:
        engine.dispose()


def move_rows(source: sa.Engine, target: sa.Engine) -> None:
    """Insert every row of the coordinator's tables, as of one moment, into the same empty tables elsewhere."""
    snapshot = "SERIALIZABLE" if source.dialect.name == "sqlite" else "REPEATABLE READ"
    with source.connect().execution_options(isolation_level=snapshot) as reading, target.begin() as writing:
        for table in METADATA.sorted_tables:
            rows = reading.execute(sa.select(table)).mappings()
            for part in rows.partitions(1000):
                writing.execute(table.insert(), [dict(row) for row in part])
        reading.rollback()


def _one_file(copy: Path) -> None:
    """Bring everything into the file itself, without a write-ahead log beside it."""
    connection = sqlite3.connect(copy)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    sync(copy)


def _link(source: Path, target: Path) -> None:
    """Link every file; where the file system has no links, copy it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in _below(source) if source.exists() else []:
        beside = target / path.relative_to(source)
        if path.is_file() and not _passing(path):
            beside.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.link(path, beside)
                except OSError:
                    shutil.copyfile(path, beside)


def _below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder, which may itself be a link; raises StorageError for a link to a folder deeper in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise StorageError(
                f"{path.name!a} in the coordinator's folder is a link to another folder, which a backup would miss.",
                remedy="Link whole folders only, such as transcripts, or mount the other disk there.",
            )
        yield path


def _passing(path: Path) -> bool:
    """Return whether a file is only there for a moment, or belongs to the running process."""
    name = path.name
    return name.endswith(".part") or name in (".probe", ADMIN_SOCKET, LOCK, "daemon.log") or name.startswith(FILE)


def _files(folder: Path, stage: Path) -> Iterator[Path]:
    """Yield every file of the coordinator, of the models those that were linked; a folder of its own may be on another disk."""
    yield from (path for path in sorted(stage.rglob("*")) if path.is_file())
    for first in sorted(folder.iterdir()):
        if first.name != "models" and not first.name.startswith(STAGE):
            below = _below(first) if first.is_dir() else [first]
            yield from (path for path in below if path.is_file() and not _passing(path))


def _checked(name: str) -> str:
    """Return the name of a file as the manifest can hold it."""
    try:
        name.encode()
        return _relative(name)
    except ValueError:
        raise StorageError(
            f"The name {name[:200]!a} in the coordinator's folder cannot be kept in a backup.",
            remedy="Rename it, or move it elsewhere: it is not a file of Salus.",
        ) from None


def _copied(source: Path, target: Path) -> Entry | None:
    """Copy one file and return its entry; None if it has gone meanwhile. Of a log that grows, whole lines are kept."""
    try:
        with source.open("rb") as reading:
            write_private(target, reading)
    except FileNotFoundError:
        return None
    if target.suffix == ".jsonl":
        drop_half_line(target)
    return entry_of(target)


def write_private(target: Path, reading: BinaryIO) -> None:
    """Write a new file that only its owner can read, in folders of the same kind; on disk when this returns."""
    missing = [folder for folder in target.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    number = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(number, "wb") as writing:
        shutil.copyfileobj(reading, writing, CHUNK)
        writing.flush()
        os.fsync(writing.fileno())


def entry_of(path: Path) -> Entry:
    """Return the hash and the size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(sha256=digest, bytes=path.stat().st_size)
