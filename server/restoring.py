"""Restores a coordinator from a backup into a new folder, after every hash was compared."""

import io
import os
import shutil
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from salus.common.errors import ConfigError, StorageError, storage_error
from salus.common.files import check_new_folder
from salus.common.sqlite import open_sqlite
from salus.common.strict import load_json, parse_toml, read_text
from salus.server.backup import FILES, MANIFEST, Entry, Manifest, entry_of, move_rows, write_private
from salus.server.config import ServerConfig
from salus.server.database import FILE, Claim, open_engine
from salus.server.moving import WHAT, with_database
from salus.server.restored import FILE as RESTORED
from salus.server.restored import Restored, restored
from salus.server.tables import JOBS, METADATA

SETTINGS = "server.toml"
MOST_BYTES = 256 * 2**20  # of a manifest with a million files


def restore(folder: Path, source: Path, database: str = "", password_file: str = "") -> tuple[Manifest, Restored]:
    """Restore a backup into a new folder, and into PostgreSQL if its settings name it.

    Guarantees: nothing that exists is overwritten. The settings are written last, so a folder that was not restored to the end
    is no coordinator's folder.

    Args:
        database: another one than the backup's settings name, see `with_database`; empty for that one.
        password_file: of that database.

    Raises:
        ConfigError: the folder is not new, the database is not empty, or there is no backup.
        StorageError: another process uses the database, the backup is incomplete or damaged, or something cannot be read or
            written.
    """
    manifest = read_manifest(source)
    check_new_folder(folder, SETTINGS, "keys")
    settings = read_text(source / FILES / SETTINGS, error=ConfigError, what=WHAT)
    if moved := bool(database or password_file):
        settings = with_database(settings, database, password_file)
    config = parse_toml(ServerConfig, settings, error=ConfigError, what=WHAT)
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for name, entry in sorted(manifest.files.items()):
            if name != SETTINGS:
                _copy(source / FILES / name, folder / name, entry)
        numbers = _database(folder, source / FILE, config)
        if moved:
            write_private(folder / SETTINGS, io.BytesIO(settings.encode()))
        else:
            _copy(source / FILES / SETTINGS, folder / SETTINGS, manifest.files[SETTINGS])
    except BaseException as problem:
        _remove(folder, itself=made)
        if isinstance(problem, OSError):
            raise storage_error(problem) or problem from None
        raise
    return manifest, numbers


def read_manifest(source: Path) -> Manifest:
    """Return the manifest of a complete and intact backup; errors as in `restore`."""
    if not (source / MANIFEST).is_file():
        raise ConfigError(
            f"{source.name!r} is no complete backup of a coordinator: it has no {MANIFEST}.",
            remedy="Give the folder that `salus server backup` wrote to its end.",
        )
    manifest = load_json(
        Manifest, source / MANIFEST, error=StorageError, what="backup's list of files", most=MOST_BYTES
    )
    if SETTINGS not in manifest.files:
        raise _damaged(SETTINGS)
    _check(source / FILE, manifest.database, FILE, source)
    for name, entry in manifest.files.items():
        _check(source / FILES / name, entry, name, source)
    _check_tables(source / FILE)
    return manifest


def _check(path: Path, entry: Entry, name: str, source: Path) -> None:
    """Compare one file with the manifest; a link, which could lead out of the backup, is none of its files."""
    if path.resolve() != source.resolve() / path.relative_to(source) or not path.is_file() or entry_of(path) != entry:
        raise _damaged(name)


def _damaged(name: str) -> StorageError:
    return StorageError(
        f"The file {name[:200]!r} of the backup is missing or was changed since it was written.",
        remedy="Use another backup.",
    )


def _check_tables(path: Path) -> None:
    """Refuse a database with anything but the coordinator's tables, such as a trigger, or one that is damaged."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            found = list(connection.execute("SELECT type, tbl_name FROM sqlite_master"))
            intact = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        finally:
            connection.close()
    except sqlite3.Error:
        raise _damaged(FILE) from None
    known = {*METADATA.tables, "alembic_version"}
    if not intact or any(kind not in ("table", "index") or table not in known for kind, table in found):
        raise _damaged(FILE)


def _copy(source: Path, target: Path, entry: Entry) -> None:
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reading:
        write_private(target, reading)
    if entry_of(target) != entry:
        raise _damaged(target.name)


def _database(folder: Path, copy: Path, config: ServerConfig) -> Restored:
    """Restore the database; return the numbers from which the coordinator goes on, which are in the folder."""
    with copy.open("rb") as reading:
        write_private(folder / FILE, reading)
    engine = open_sqlite(folder / FILE)
    try:
        with engine.connect() as connection:
            last = connection.scalar(sa.select(sa.func.max(JOBS.c.number))) or 0
        numbers = restored(folder).again(last)
    except (sa.exc.DatabaseError, ValueError):  # whoever wrote it: no table of jobs, or numbers beyond all bounds
        raise _damaged(FILE) from None
    numbers.write(folder)
    (folder / RESTORED).chmod(0o600)
    try:
        if config.database:
            _move(engine, open_engine(folder, config.database, config.database_password_file))
    finally:
        engine.dispose()
    if config.database:
        for left in folder.glob(f"{FILE}*"):
            left.unlink()
    return numbers


def _move(engine: sa.Engine, elsewhere: sa.Engine) -> None:
    """Move all rows into an empty database, which no coordinator and no other restore uses meanwhile."""
    claim = Claim(elsewhere)
    try:
        claim.hold()
        with elsewhere.connect() as connection:
            if any(connection.execute(sa.select(table).limit(1)).first() for table in METADATA.sorted_tables):
                raise ConfigError(
                    "The database is not empty; nothing is overwritten.",
                    remedy="Create an empty database of that name, or rename the old one.",
                )
        move_rows(engine, elsewhere)
    finally:
        claim.end()
        elsewhere.dispose()


def _remove(folder: Path, *, itself: bool) -> None:
    """Remove what a restore has written before it failed; the folder was new or empty."""
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if itself:
        folder.rmdir()
