"""Everything that is kept states its format; a newer one is refused, and the message says which side is too old."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.builders import tiny_job

from salus.client.ledger.store import Ledger
from salus.client.policy import Policy
from salus.client.rosters import METADATA as ROSTERS
from salus.client.session_store import SqliteSessionStore
from salus.common.clock import SystemClock
from salus.common.declaration import Declaration
from salus.common.errors import ConfigError, DataError, ProtectionError, RoundError, StorageError, WireError
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.kit import Kit, MemberRequest
from salus.common.packets import Request, pack, unpack_request
from salus.common.roster import Roster
from salus.common.sqlite import open_database
from salus.common.strict import Strict, validate
from salus.common.tensors import TensorSpec
from salus.common.vectors import Layout
from salus.common.versions import check_format
from salus.server.checkpoints import Checkpoints
from salus.server.transcripts import Transcript, verify_entries

NEWER = "the reading side is too old"
DATABASES: dict[str, Callable[[Path], object]] = {
    "ledger.sqlite": lambda folder: Ledger(folder / "ledger.sqlite", SystemClock()),
    "sessions.sqlite": lambda folder: SqliteSessionStore(folder / "sessions.sqlite"),
    "coordinator.sqlite": Checkpoints,
    "rosters.sqlite": lambda folder: open_database(folder / "rosters.sqlite", ROSTERS, 1),
}


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    DATABASES[name](tmp_path)
    DATABASES[name](tmp_path)
    for stated, message in ((2, NEWER), (0, "the side that wrote it is too old")):
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute(f"PRAGMA user_version = {stated}")
        connection.close()
        with pytest.raises(StorageError, match=f"database '{name}' .*{message}"):
            DATABASES[name](tmp_path)
        with sqlite3.connect(tmp_path / name) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (stated,)
        connection.close()


@pytest.mark.parametrize("model", [Policy, Declaration, Kit, MemberRequest, Roster])
def test_a_document_of_a_newer_format_is_refused(model: type[Strict]) -> None:
    with pytest.raises(DataError, match=NEWER):
        validate(model, {model.format_key: 2, "a key of the newer version": 1}, error=DataError, what="document")
    with pytest.raises(DataError, match="is too old"):
        validate(model, {model.format_key: 1, "added": 1}, error=DataError, what="document", received=True)


def test_a_policy_file_without_a_format_has_the_newest() -> None:
    assert validate(Policy, {}, error=ConfigError, what="policy") == Policy()


def test_a_message_of_another_protocol_version_is_refused() -> None:
    content = pack(Request(kind="hello"))
    header = bytes(content.config_records["salus"]["header"])  # type: ignore[arg-type]
    content.config_records["salus"]["header"] = header.replace(b'"protocol":1', b'"protocol":2,"new":0')
    with pytest.raises(WireError, match=NEWER):
        unpack_request(content)


def test_a_transcript_states_its_format(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    Transcript(path)("job", document="{}")
    Transcript(path)("job", document="{}")  # resumed
    lines = path.read_bytes().splitlines()
    assert lines[0] == b'{"format":1,"kind":"transcript"}'
    assert len(lines) == 3
    path.write_bytes(b'{"format":2,"kind":"transcript"}\n{"kind":"news"}\n')
    with pytest.raises(ProtectionError, match=NEWER):
        verify_entries(path, {})


def test_a_model_file_states_its_format(tmp_path: Path) -> None:
    layout, store = Layout((TensorSpec("w", "float32", (2,)),)), Checkpoints(tmp_path)
    job_id = store.submit(seal_job(tiny_job(), Identity.generate()), "tiny")
    path = store.save_round(job_id, 1, layout, np.ones(2, np.float32), {}, {})
    assert store.load_model(job_id, 1, layout)[0].tolist() == [1, 1]
    save_file(load_file(path), path, {"format": "2"})
    with pytest.raises(RoundError, match=NEWER):
        store.load_model(job_id, 1, layout)


def test_a_number_of_hundreds_of_digits_is_a_refusal_like_any_other() -> None:
    """It is not a float, and one of thousands of digits cannot even be written down."""
    for digits in (7, 400, 5000):
        with pytest.raises(DataError, match="has format above 999999"):
            check_format(10**digits, 1, what="document", error=DataError)
