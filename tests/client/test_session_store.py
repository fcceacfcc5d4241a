"""The site's memory of sessions and consents, also under `kill -9`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes import start

from salus.client.session_store import SqliteSessionStore
from salus.common.errors import ProtectionError
from salus.privacy.masking.store import MemoryStore, SessionStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return MemoryStore() if request.param == "memory" else SqliteSessionStore(tmp_path / "s.sqlite")


def test_a_session_opens_once_and_gets_one_consent(store: SessionStore) -> None:
    store.open_session(b"a" * 32, "toy/0")
    with pytest.raises(ProtectionError, match="opened before"):
        store.open_session(b"a" * 32, "toy/0")
    store.consent(b"a" * 32, frozenset({1, 2}))
    with pytest.raises(ProtectionError, match="consent was given"):
        store.consent(b"a" * 32, frozenset({1, 2}))
    store.open_session(b"b" * 32, "other/0")
    store.consent(b"b" * 32, frozenset({3}))
    assert store.cohorts("toy/0") == [frozenset({1, 2})]
    assert store.cohorts("toy/1") == []


def test_a_restarted_site_remembers(tmp_path: Path) -> None:
    SqliteSessionStore(tmp_path / "s.sqlite").open_session(b"a" * 32, "toy/0")
    with pytest.raises(ProtectionError):
        SqliteSessionStore(tmp_path / "s.sqlite").open_session(b"a" * 32, "toy/0")


CHILD = """
import sys
from pathlib import Path
from salus.client.session_store import SqliteSessionStore
from salus.common.errors import ProtectionError
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
        store.consent(session, frozenset({1, number}))
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
        time.sleep(0.002 + (life * 0.37) % 0.05)
        os.kill(process.pid, signal.SIGKILL)
        lines = process.stdout.read().decode().split("\n")
        process.stdout.close()
        process.wait()
        signed += [line for line in lines[:-1] if line]
    assert len(signed) > kills / 4, "the process never got anywhere"
    assert len(set(signed)) == len(signed)
