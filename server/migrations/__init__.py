"""The coordinator's tables by version, in SQLite and PostgreSQL; alembic brings older ones to the newest when they are opened.

To change the tables: one file in ``versions``, and `HEAD` is its revision. SQLite files from before alembic are at `FIRST`
without saying so; the first change must state that in them before it is made.
"""

from pathlib import Path

import sqlalchemy as sa

from salus.common.errors import StorageError
from salus.common.keeping import keep_before
from salus.common.versions import check_format

FIRST = "0001"  # the tables of SQLite files from before alembic
HEAD = "0001"
SQLITE_FORMAT = 1  # what SQLite files stated before alembic, and still do for those versions
LOCK = 0x53414C5553  # "SALUS"; of PostgreSQL's advisory locks, which are numbers


def migrate(engine: sa.Engine) -> None:
    """Bring a database to the newest tables, in one transaction, after keeping a copy of an older file; an up-to-date one is not
    touched.

    Raises:
        StorageError: it was written by a newer version, it has tables of no known version, or it cannot be read or written.
    """
    with engine.begin() as connection:
        _lock(connection)
        known = sa.inspect(connection).get_table_names()
        file = Path(engine.url.database or "").name
        what = f"database {file!r}" if engine.dialect.name == "sqlite" else "database in PostgreSQL"
        version = _version(connection, known, what)
        if version == HEAD:
            return
        if (known and not version) or version > HEAD:
            stated = int(version) if version.isdecimal() else None
            check_format(stated, int(HEAD), what=what, error=StorageError)
        if version and engine.dialect.name == "sqlite":
            keep_before(Path(str(engine.url.database)), version)
        _upgrade(connection)
        if engine.dialect.name == "sqlite" and not known:
            connection.exec_driver_sql(f"PRAGMA user_version = {SQLITE_FORMAT:d}")


def _lock(connection: sa.Connection) -> None:
    """Let no other process migrate until this transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK:d})")


def _version(connection: sa.Connection, known: list[str], what: str) -> str:
    """Return the version of the tables; empty for none, or for tables that are not a coordinator's."""
    before_alembic = ""
    if known and connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        check_format(found or None, SQLITE_FORMAT, what=what, error=StorageError)
        before_alembic = FIRST
    if "alembic_version" in known:
        return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or "")
    return before_alembic


def _upgrade(connection: sa.Connection) -> None:
    from alembic.config import Config  # takes a moment to import, and is needed once per version
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs(HEAD, revision)) as environment:
        environment.configure(connection=connection, transactional_ddl=False)
        environment.run_migrations()
