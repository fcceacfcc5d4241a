"""One way to open a SQLite file: write-ahead log, synchronous FULL, foreign keys on, private to its owner."""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

BUSY_TIMEOUT_S = 30.0  # a second process (the command line beside the daemon) waits for the lock instead of failing


def open_sqlite(path: Path) -> sa.Engine:
    """Return an engine over `path`, created with mode 0600 if absent.

    Guarantees: a committed transaction survives `kill -9` and loss of power (SQLite, WAL with synchronous FULL).
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S}, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine
