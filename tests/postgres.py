"""A real PostgreSQL server for tests, as an ordinary user, on a socket file and on loopback, with a password."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from salus.simulations.trial import free_port

PASSWORD = "not in any log"
USER = "salus"
HOW = "PostgreSQL is not installed; on Debian: apt-get install postgresql (the tests start their own server)"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which Debian keeps out of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


class Postgres:
    """One server with its own data; it refuses to run as root, so root starts it as another user."""

    def __init__(self, bin_: Path) -> None:
        self._bin = bin_
        self.folder = Path(tempfile.mkdtemp(prefix="salus-pg-", dir="/tmp"))
        self.port = free_port()
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self._run(
            "initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={self.folder / 'password'}", "-N"
        )
        self._process: subprocess.Popen[str] | None = None
        self._databases = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *words: object) -> None:
        subprocess.run(
            [self._bin / program, *map(str, words)], check=True, user=self._user, capture_output=True, cwd="/tmp"
        )

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self.data, "-k", self.folder, "-p", str(self.port), "-c", "fsync=off",
             "-c", "listen_addresses=127.0.0.1"],
            user=self._user, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd="/tmp",
        )  # fmt: skip
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "ready to accept connections" in line:
                return
        raise AssertionError("".join(said))

    def stop(self) -> None:
        """Stop it, with its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate()
            self._process = None

    def url(self, database: str) -> str:
        """Return a URL without the password."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its name."""
        self._databases += 1
        name = f"trial{self._databases}"
        self.create(name)
        return name

    def create(self, name: str) -> None:
        """Create an empty database."""
        self._execute(f"CREATE DATABASE {name}")

    def drop(self, name: str) -> None:
        """Remove a database that nobody uses."""
        self._execute(f"DROP DATABASE {name}")

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def close(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        shutil.rmtree(self.folder)


def started() -> Postgres:
    """Return a running server; skips the test where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg", reason="pip install 'salus[postgres]'")
    found = programs()
    if found is None:
        pytest.skip(HOW)
    server = Postgres(found)
    server.start()
    return server
