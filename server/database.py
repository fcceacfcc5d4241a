"""The coordinator's database: a SQLite file in its folder, or PostgreSQL by URL.

Models, transcripts and reports are files in either case. A database that cannot be reached is a StorageError, as a full disk
is: the jobs wait and continue when it is back. No message holds the URL, the user or the password.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from salus.common.errors import ConfigError, StorageError
from salus.common.extras import required
from salus.common.sqlite import open_sqlite
from salus.server.migrations import LOCK, migrate

FILE = "coordinator.sqlite"
SCHEME = "postgresql+psycopg"
PASSWORD = "SALUS_DATABASE_PASSWORD"  # noqa: S105  # the name of an environment variable
# TLS, and where the server listens. Everything else of libpq is left at its default.
OPTIONS = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port"})
LOCAL = ("", "localhost", "127.0.0.1", "::1")
CONNECT_S = 10
SILENT_MS = 30_000  # a connection without an answer is given up, as through a firewall that has forgotten it
# SQLSTATE classes and codes in the operator's words; any other one is an error in our own SQL.
PROBLEMS: tuple[tuple[str, str, str], ...] = (
    ("28", "it refuses the user or the password", "Check the URL in server.toml and the password."),
    ("3D", "there is no such database", "Create it, or correct the URL in server.toml."),
    ("3F", "there is no such schema", "Check the search_path of the database's user."),
    ("42501", "permission is denied", "Grant the user of the URL the right to create and change tables."),
    ("53100", "its disk is full", "Free some space there; everything committed before is intact."),
    ("53", "it has no free connections or memory", "Raise its limits, or wait."),
    ("25006", "it is read-only", "Point the URL at the primary server."),
    ("57", "it is shutting down or starting", "Wait, or start it again."),
    ("58", "its disk reports an error", "Check the machine of the database."),
    ("XX", "it is damaged", "Keep a copy, and restore the latest backup."),
    ("55P03", "another process has locked it", "Wait for the other process to end."),
    ("40", "another process has changed it at the same time", "Check that only one coordinator uses it."),
    ("08", "the connection was lost", "Check that it is running and can be reached."),
)
# What a failed connection says, which has no SQLSTATE, in words without the server's name and the user.
CONNECTING: tuple[tuple[str, str, str], ...] = (
    ("authentication failed", "it refuses the user or the password", "Check the URL in server.toml and the password."),
    ("no password supplied", "it expects a password", f"Set database_password_file in server.toml, or {PASSWORD}."),
    ("pg_hba.conf", "it does not admit this machine and user", "Add them to pg_hba.conf there."),
    (
        "certificate",
        "its TLS certificate is not accepted",
        "Set sslrootcert in the URL to the authority's certificate.",
    ),
    ("SSL", "TLS failed", "Check sslmode in the URL, and that the server offers TLS."),
    ("does not exist", "there is no such database or user", "Create it, or correct the URL in server.toml."),
    ("starting up", "it is starting", "Wait."),
)
REACH = "Check that it is running and can be reached."
PATIENCE_S = 120.0  # for a restart or a failover; after that, the job ends and continues from its last complete round
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class DatabaseGone(StorageError):
    """PostgreSQL cannot be reached now; what was not committed is not there."""


class DatabaseTaken(StorageError):
    """Another coordinator uses the database."""


def check_url(text: str) -> sa.URL:
    """Return the URL of a PostgreSQL database; raises ValueError without repeating the text, which may hold a password."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # of which the latter repeats a part
        raise ValueError(f"expected {SCHEME}://USER@HOST/DATABASE") from None
    if url.drivername != SCHEME or not url.database:
        raise ValueError(f"expected {SCHEME}://USER@HOST/DATABASE")
    if url.password is not None:
        raise ValueError(f"the password belongs into database_password_file or the environment variable {PASSWORD}")
    if unknown := sorted(set(url.query) - OPTIONS):
        raise ValueError(f"unknown options {', '.join(unknown)[:80]}; expected {', '.join(sorted(OPTIONS))}")
    return url


def open_engine(folder: Path, url: str = "", password_file: str = "") -> sa.Engine:
    """Return an engine over the coordinator's database, with the newest tables.

    Args:
        url: of PostgreSQL, see `check_url`; empty for the SQLite file in the folder.
        password_file: relative to the folder, or absolute; empty for the environment variable, or a database without a password.

    Raises:
        ConfigError: the password file cannot be read, or the extra for PostgreSQL is not installed.
        StorageError: here and from every later statement, if the database cannot be reached, read or written.
    """
    engine = _postgres(folder, url, password_file) if url else open_sqlite(folder / FILE)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _postgres(folder: Path, text: str, password_file: str) -> sa.Engine:
    required("psycopg", extra="postgres", what="A database in PostgreSQL")
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings name the server, the database and the user
    url = check_url(text)
    engine = sa.create_engine(
        url,
        connect_args=_arguments(url, _password(folder, password_file)),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=64,
    )

    @sa.event.listens_for(engine, "handle_error")
    def _translate(context: sa.engine.ExceptionContext) -> None:
        known = None if context.is_pre_ping else postgres_problem(context.original_exception)
        if known is not None:
            raise known from None

    return engine


def _arguments(url: sa.URL, password: str) -> dict[str, Any]:
    """Return what the driver is told beside the URL."""
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "tcp_user_timeout": SILENT_MS,
        "keepalives_idle": SILENT_MS // 1000,
        "application_name": "salus",
        "options": f"-c lock_timeout={SILENT_MS}",
    }
    if password:
        arguments["password"] = password
    stated = url.query.get("host", ())
    hosts = [url.host or "", *((stated,) if isinstance(stated, str) else stated)]
    local = all(host in LOCAL or host.startswith("/") for listed in hosts for host in listed.split(","))
    if not local and "sslmode" not in url.query:
        arguments["sslmode"] = "verify-full"  # a network is not trusted unless the operator says so
    return arguments


def _password(folder: Path, password_file: str) -> str:
    if not password_file:
        return os.environ.get(PASSWORD, "")
    try:
        return (folder / password_file).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError):  # also a path with a zero byte
        raise ConfigError(
            "The file of database_password_file in server.toml cannot be read.",
            remedy="Correct the path, absolute or from the coordinator's folder, and let the coordinator's user read it.",
        ) from None


def postgres_problem(problem: BaseException) -> StorageError | None:
    """Return the meaning of a PostgreSQL error; None unless the database or the way to it is the cause."""
    code = str(getattr(problem, "sqlstate", None) or "")
    if type(problem).__module__.partition(".")[0] != "psycopg":
        return None
    for prefix, meaning, remedy in PROBLEMS:
        if code.startswith(prefix):
            gone = prefix in ("57", "08", "53")
            return (DatabaseGone if gone else StorageError)(
                f"Cannot use the PostgreSQL database: {meaning}.", remedy=remedy
            )
    if not code and type(problem).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError"):
        said = str(problem)
        found = (known[1:] for known in CONNECTING if known[0] in said)
        meaning, remedy = next(found, ("the connection failed", REACH))
        return DatabaseGone(f"Cannot use the PostgreSQL database: {meaning}.", remedy=remedy)
    return None


class Claim:
    """That this process is the only coordinator of a PostgreSQL database; for a SQLite file, the lock of its folder decides.

    It is a lock of PostgreSQL on a connection of its own: it ends with the process, however that ends.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None

    def hold(self) -> None:
        """Take the claim, or check that it still holds.

        Raises:
            DatabaseTaken: another process has it.
            DatabaseGone: the database cannot be reached; another process may take it when it is back.
        """
        if self._engine.dialect.name == "sqlite":
            return
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                taken = not self._connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK + 1:d})").scalar()
            else:
                taken = not self._connection.exec_driver_sql("SELECT 1").scalar()
            self._connection.rollback()  # ends the transaction, not the lock
        except StorageError:
            self.end()
            raise
        if taken:
            self.end()
            raise DatabaseTaken(
                "Another coordinator or restore uses the PostgreSQL database.",
                remedy="Stop it, or name another database.",
            )

    def end(self) -> None:
        """Give the claim up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # closed and not pooled: the lock belongs to the connection
            connection.close()


class Waiting(Protocol):
    """A store that can be told to wait no longer."""

    stopping: threading.Event


Method = TypeVar("Method", bound=Callable[..., Any])


def patient(method: Method) -> Method:
    """Let a method of a store wait while the database is gone, so that a restart of it costs no round.

    The method must be safe to call again when it is not known whether its transaction was committed.

    Raises:
        DatabaseGone: it was gone for `PATIENCE_S`, or the store is stopping.
    """

    @wraps(method)
    def waiting(self: Waiting, *args: Any, **keywords: Any) -> Any:
        until, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
        while True:
            try:
                return method(self, *args, **keywords)
            except DatabaseGone:
                if time.monotonic() > until or self.stopping.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    return waiting  # type: ignore[return-value]
