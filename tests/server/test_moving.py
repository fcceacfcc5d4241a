"""A coordinator moves from SQLite to PostgreSQL and back: backup, then restore into the other database."""

import tomllib
from pathlib import Path

import pytest
from tests.cli import salus
from tests.postgres import PASSWORD, Postgres
from tests.server.test_backup import CLOCK, coordinator, save, tree

from salus.common.errors import ConfigError
from salus.server.backup import backup
from salus.server.checkpoints import Checkpoints
from salus.server.config import database_of
from salus.server.moving import SQLITE, with_database
from salus.server.restoring import restore

URL = "postgresql+psycopg://salus@localhost/salus"


def test_jobs_move_to_postgresql_and_back_and_go_on(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = coordinator(tmp_path / "c", "max_running_jobs = 2  # two, for the memory\n")
    save(store, job, 1)
    rows, records = store.jobs(), store.records(job)
    store.close()
    (tmp_path / "password").write_text(PASSWORD)
    backup(tmp_path / "c", tmp_path / "b1", CLOCK)
    url = postgres.url(postgres.new_database())
    words = ("--database", url, "--database-password-file", tmp_path / "password")
    moved = salus("server", "restore", tmp_path / "p", tmp_path / "b1", *words)
    assert moved.returncode == 0, moved.stderr
    assert not list((tmp_path / "p").glob("coordinator.sqlite*"))
    assert "# two, for the memory" in (tmp_path / "p" / "server.toml").read_text()
    assert (tmp_path / "p" / "server.toml").stat().st_mode & 0o777 == 0o600
    there = Checkpoints(tmp_path / "p", database_of(tmp_path / "p"))
    assert (there.jobs(), there.records(job)) == (rows, records)
    save(there, job, 2)
    records = there.records(job)
    there.close()

    backup(tmp_path / "p", tmp_path / "b2", CLOCK)
    restore(tmp_path / "s", tmp_path / "b2", SQLITE)
    back = Checkpoints(tmp_path / "s", database_of(tmp_path / "s"))
    assert (back.jobs(), back.records(job)) == (rows, records)
    back.close()
    same = {"server.toml", "transcripts", "models", "keys", "database.password"}
    before, after = ({k: v for k, v in tree(tmp_path / f).items() if k.split("/")[0] in same} for f in ("p", "s"))
    assert before.pop("server.toml") != after.pop("server.toml")
    assert before == after
    assert tomllib.loads((tmp_path / "s" / "server.toml").read_text()) == {"port": 8443, "max_running_jobs": 2}


TEXT = """\
port = 8443
# database = "postgresql+psycopg://x@y/z"   # instead of SQLite
  database="postgresql+psycopg://old@host/db"
database_password_file = "old"  # secret

[monitoring]
http_port = 9100
"""


def test_only_the_lines_of_the_database_change() -> None:
    found = with_database(TEXT, URL, '/run/new \\ "one"')
    assert tomllib.loads(found) == tomllib.loads(TEXT) | {
        "database": URL,
        "database_password_file": '/run/new \\ "one"',
    }
    assert "# instead of SQLite" in found
    assert tomllib.loads(with_database(TEXT, SQLITE, "")) == {"port": 8443, "monitoring": {"http_port": 9100}}


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029"])
def test_a_comment_is_not_cut_where_only_some_programs_end_a_line(mark: str) -> None:
    text = f"# kept{mark}database = 1\nport = 8443\n"
    assert with_database(text, SQLITE, "") == text
    assert with_database(text, URL, "").startswith(text)


def test_a_password_file_may_have_any_name() -> None:
    name = "/run/\U0001f511\x7fä"
    assert tomllib.loads(with_database(TEXT, URL, name))["database_password_file"] == name


@pytest.mark.parametrize(
    ("text", "database", "password_file", "said"),
    [
        (TEXT, "postgresql://salus@host/db", "", "USER@HOST/DATABASE. Correct --database"),
        (TEXT, "postgresql+psycopg://salus:word@host/db", "", "the password belongs into"),
        (TEXT, SQLITE, "password", "is for a PostgreSQL database"),
        (TEXT, "", "password", "is for a PostgreSQL database"),
        ('port = 8443\n"database" = "postgresql+psycopg://old@host/db"\n', URL, "", "not on a line of its own"),
        ('port = 8443\ndatabase = """\\\n  postgresql+psycopg://old@host/db"""\n', URL, "", "not on a line of its own"),
        (TEXT, URL, "/\udcff", "new server file"),
        ('port = 8443\n"database" = "postgresql+psycopg://old@host/db"\n', SQLITE, "", "not on a line of its own"),
    ],
)
def test_what_cannot_be_changed_is_refused(text: str, database: str, password_file: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as problem:
        with_database(text, database, password_file)
    assert "word@" not in str(problem.value)
