"""The catalogue's schema by version; alembic brings an older file to the newest one when it is opened.

To change the schema: one file in ``versions``, and `HEAD` is its revision.
"""

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from salus.common.errors import DataError
from salus.common.keeping import keep_before
from salus.common.versions import check_format

HEAD = "0009"
SEALED = "0003"  # before it, paths and names stood in the file in plain text: no copy of such a file is kept


def migrate(engine: sa.Engine, seal: Callable[[str], str]) -> None:
    """Bring a catalogue to the newest schema, in one transaction, after keeping a copy; an up-to-date one is not touched.

    Args:
        seal: hides a text that may name a person, see `sealing`.

    Raises:
        DataError: the file was written by a newer version, or has tables of no known version.
        StorageError: not enough free space for the copy.
    """
    with engine.connect() as connection:
        known = sa.inspect(connection).get_table_names()
        version = ""
        if "alembic_version" in known:
            version = str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or "")
    if version == HEAD:
        return
    if (known and not version) or version > HEAD:
        stated = int(version) if version.isdecimal() else None
        check_format(stated, int(HEAD), what="catalogue", error=DataError)
    if version >= SEALED:
        keep_before(Path(str(engine.url.database)), version)
    from alembic.config import Config  # takes a moment to import, and is needed once per version
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete=ON")  # what is sealed now must not stay in freed pages
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes may open a new file at the same time
        with EnvironmentContext(
            config, script, fn=lambda revision, _: script._upgrade_revs(HEAD, revision)
        ) as environment:
            environment.configure(connection=connection, transactional_ddl=False, seal=seal)
            environment.run_migrations()
        connection.commit()
