"""The site's memory of sessions and consents, also under `kill -9`."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import start

from salus.client.session_store import SqliteSessionStore
from salus.common.errors import ProtectionError, Refused, StorageError
from salus.privacy.contribution import DataKind
from salus.privacy.protocol.contributors import Consent, Statement, contributors_of, late_data
from salus.privacy.protocol.store import MemoryStore, SessionStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return MemoryStore() if request.param == "memory" else SqliteSessionStore(tmp_path / "s.sqlite")


def test_a_session_opens_once_and_gets_one_consent(store: SessionStore) -> None:
    store.open_session(b"a" * 32, "toy/0")
    with pytest.raises(ProtectionError, match="opened before"):
        store.open_session(b"a" * 32, "toy/0")
    given = Consent(frozenset({1, 2}), "masking", contributors_of({1: Statement(DataKind.TRAINING), 2: Statement()}))
    store.consent(b"a" * 32, given)
    with pytest.raises(ProtectionError, match="consent was already given"):
        store.consent(b"a" * 32, given)
    store.open_session(b"b" * 32, "other/0")
    store.consent(b"b" * 32, Consent(frozenset({3}), "encryption/2"))
    assert store.consents("toy/0") == [given]
    assert store.consents("other/0") == [Consent(frozenset({3}), "encryption/2", None)]
    assert store.consents("toy/1") == []


def test_one_question_about_each_quantity_is_answered(store: SessionStore) -> None:
    """Finding E: a second histogram with shifted bins, subtracted from the first, left single patients."""
    store.ask("toy/0", {"summary: column age": "[1]", "summary: labels": "[2]"})
    store.ask("toy/0", {"summary: column age": "[1]", "nyul": "[3]"})
    with pytest.raises(Refused, match=r"another question about the same data \(summary: column age\)"):
        store.ask("toy/0", {"summary: column height": "[1]", "summary: column age": "[1.5]"})
    store.ask("toy/0", {"summary: column height": "[2]"})  # nothing of the refused questions was remembered
    store.ask("toy/1", {"summary: column age": "[1.5]"})


def test_a_restarted_site_remembers_sessions_and_contributors(tmp_path: Path) -> None:
    store = SqliteSessionStore(tmp_path / "s.sqlite")
    store.open_session(b"a" * 32, "toy/0")
    kinds = DataKind.TRAINING | DataKind.VALIDATION
    given = Consent(frozenset({1, 2, 3}), "masking", contributors_of({1: Statement(kinds), 3: Statement(kinds)}))
    store.consent(b"a" * 32, given)
    again = SqliteSessionStore(tmp_path / "s.sqlite")
    with pytest.raises(ProtectionError):
        again.open_session(b"a" * 32, "toy/0")
    (remembered,) = again.consents("toy/0")
    assert remembered == given
    assert late_data(2, [remembered]) == kinds
    assert late_data(3, [remembered]) == DataKind.NONE


def test_a_file_of_another_format_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        connection.execute("CREATE TABLE sessions (session BLOB PRIMARY KEY)")
    connection.close()
    with pytest.raises(StorageError, match=r"database 's.sqlite' does not state a format .*is too old"):
        SqliteSessionStore(tmp_path / "s.sqlite")


CHILD = """
import sys
from pathlib import Path
from salus.client.session_store import SqliteSessionStore
from salus.common.errors import ProtectionError
from salus.privacy.protocol.contributors import Consent
store = SqliteSessionStore(Path(sys.argv[1]))
sys.stdout.write("ready\\n"); sys.stdout.flush()
number = 0
while True:
    session = number.to_bytes(32, "big")
    number += 1
    try:
        store.open_session(session, "toy/0")
    except ProtectionError:
        pass
    try:
        store.consent(session, Consent(frozenset({1, number})))
    except ProtectionError:
        continue
    sys.stdout.write(f"{number - 1}\\n"); sys.stdout.flush()  # the signature leaves
"""


@pytest.mark.parametrize("kills", [pytest.param(12, id="few"), pytest.param(100, marks=pytest.mark.slow, id="hundred")])
@pytest.mark.timeout(900)
def test_killed_at_random_points_no_session_is_signed_twice(tmp_path: Path, kills: int) -> None:
    """Each life begins the sessions from the first again; what an earlier life signed must never be signed once more."""
    signed: list[str] = []
    for life in range(kills):
        process = start([sys.executable, "-c", CHILD, tmp_path / "s.sqlite"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        signed += [process.stdout.readline().decode().strip() for _ in range(life % 4)]
        os.kill(process.pid, signal.SIGKILL)  # somewhere in the next session, or before the first
        lines = process.stdout.read().decode().split("\n")
        process.stdout.close()
        process.wait()
        signed += [line for line in lines[:-1] if line]
    assert len(signed) > kills / 4, "the process never got anywhere"
    assert len(set(signed)) == len(signed)
