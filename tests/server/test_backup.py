"""Backups of a coordinator: complete, private, consistent while it works; a restore overwrites nothing."""

import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job
from tests.cli import salus
from tests.postgres import PASSWORD, Postgres

from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, SalusError, StorageError
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.server import backup as backups
from salus.server.backup import FILES, MANIFEST, backup
from salus.server.checkpoints import Checkpoints
from salus.server.config import database_of
from salus.server.database import Claim, DatabaseTaken, open_engine
from salus.server.restoring import restore

CLOCK = ManualClock(datetime(2026, 11, 27, tzinfo=UTC))
JOB = tiny_job(rounds=500)
LAYOUT = layout_of(build_model(JOB.task, 0))
MODEL = read_parameters(build_model(JOB.task, 0), LAYOUT)


def coordinator(folder: Path, settings: str = "") -> tuple[Checkpoints, str]:
    """Return the store of a coordinator's folder with one running job."""
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "signing.key").write_text("secret")
    (folder / "server.toml").write_text(f"port = 8443\n{settings}")
    (folder / "database.password").write_text(PASSWORD)
    (folder / "admin.sock.part").touch()
    store = Checkpoints(folder, database_of(folder))
    job = store.submit(seal_job(JOB, Identity.generate()), "tiny")
    store.begin(job, "roster")
    (folder / "transcripts").mkdir()
    (folder / "transcripts" / f"{job}.jsonl").write_text('{"kind":"a"}\n{"kind":"half')
    return store, job


def save(store: Checkpoints, job: str, round_: int) -> None:
    store.begin_attempt(job, round_)
    store.save_round(job, round_, LAYOUT, MODEL + round_, {}, {"round": round_})


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("coordinator.sqlite")
    }


def test_a_restored_coordinator_is_the_same_but_for_half_lines_and_the_numbers(tmp_path: Path) -> None:
    store, job = coordinator(tmp_path / "c")
    for round_ in range(1, 4):
        save(store, job, round_)
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    _, numbers = restore(tmp_path / "r", tmp_path / "b")
    before, after = tree(tmp_path / "c"), tree(tmp_path / "r")
    assert json.loads(after.pop("restored.json"))["times"] == 1
    del before["admin.sock.part"]
    before[f"transcripts/{job}.jsonl"] = b'{"kind":"a"}\n'
    assert after == before
    again = Checkpoints(tmp_path / "r")
    assert again.jobs() == store.jobs()
    assert again.records(job) == store.records(job)
    assert np.array_equal(again.load_model(job, 3, LAYOUT)[0], MODEL + 3)
    assert again.begin_attempt(job, 4) == numbers.first_attempt >= 1000
    assert again.begin_attempt(job, 4) == numbers.first_attempt + 1
    assert again.submit(seal_job(JOB, Identity.generate()), "tiny") == f"tiny-{numbers.first_job:04d}" == "tiny-1001"


def test_everything_in_it_is_for_its_owner_only(tmp_path: Path) -> None:
    save(*coordinator(tmp_path / "c"), 1)
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    restore(tmp_path / "r", tmp_path / "b")
    for folder in (tmp_path / "b", tmp_path / "r"):
        for path in [folder, *folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_backup_while_a_job_saves_its_rounds_always_has_the_model_of_its_last_round(tmp_path: Path) -> None:
    store, job = coordinator(tmp_path / "c")
    stop, some = threading.Event(), threading.Event()

    def work() -> None:
        round_ = 0
        while not stop.is_set():
            round_ += 1
            save(store, job, round_)
            some.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert some.wait(60)
        for number in range(5):
            made = backup(tmp_path / "c", tmp_path / f"b{number}", CLOCK)
            restore(tmp_path / f"r{number}", tmp_path / f"b{number}")
            again = Checkpoints(tmp_path / f"r{number}")
            rounds = len(again.records(job))
            assert rounds == made.jobs[job].rounds
            if rounds:
                assert np.array_equal(again.load_model(job, rounds, LAYOUT)[0], MODEL + rounds)
    finally:
        stop.set()
        thread.join()
    assert not list((tmp_path / "c").glob(f"{backups.STAGE}*"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    coordinator(tmp_path / "c")
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    with pytest.raises(ConfigError):
        backup(tmp_path / "c", tmp_path / "b", CLOCK)
    with pytest.raises(ConfigError, match="inside"):
        backup(tmp_path / "c", tmp_path / "c" / "b", CLOCK)
    with pytest.raises(ConfigError, match="never overwritten"):
        restore(tmp_path / "c", tmp_path / "b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        restore(tmp_path / "other", tmp_path / "b")
    with pytest.raises(ConfigError, match="is not the folder of a coordinator"):
        backup(tmp_path / "other", tmp_path / "b2", CLOCK)


def changed(backup: Path) -> None:
    with (backup / FILES / "keys" / "signing.key").open("a") as file:
        file.write("x")


def missing(backup: Path) -> None:
    (backup / FILES / "keys" / "signing.key").unlink()


def linked(backup: Path) -> None:
    path = backup / FILES / "keys" / "signing.key"
    path.rename(backup.parent / "moved")
    path.symlink_to(backup.parent / "moved")


def folder_linked(backup: Path) -> None:
    (backup / FILES / "keys").rename(backup.parent / "moved keys")
    (backup / FILES / "keys").symlink_to(backup.parent / "moved keys")


def other_database(backup: Path) -> None:
    with (backup / "coordinator.sqlite").open("ab") as file:
        file.write(bytes(10))


def incomplete(backup: Path) -> None:
    (backup / MANIFEST).unlink()


def no_json(backup: Path) -> None:
    (backup / MANIFEST).write_text("[" * 100_000)


def upwards(backup: Path) -> None:
    edit(backup, lambda values: values["files"].update({"../outside": values["files"]["server.toml"]}))


def absolute(backup: Path) -> None:
    edit(backup, lambda values: values["files"].update({"/tmp/outside": values["files"]["server.toml"]}))


def the_database_twice(backup: Path) -> None:
    edit(backup, lambda values: values["files"].update({"coordinator.sqlite-wal": values["files"]["server.toml"]}))


def without_settings(backup: Path) -> None:
    edit(backup, lambda values: values["files"].pop("server.toml"))


def newer(backup: Path) -> None:
    edit(backup, lambda values: values.update(format=2))


def with_a_trigger(backup: Path) -> None:
    rewritten(backup, "CREATE TRIGGER t AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END")


def without_jobs(backup: Path) -> None:
    rewritten(backup, "DROP TABLE jobs")


def with_a_last_number(backup: Path) -> None:
    rewritten(backup, "UPDATE jobs SET number = 4611686018427387904")


def rewritten(backup: Path, statement: str) -> None:
    with sqlite3.connect(backup / "coordinator.sqlite") as connection:
        connection.execute(statement)
    connection.close()
    entry = backups.entry_of(backup / "coordinator.sqlite").model_dump()
    edit(backup, lambda values: values.update(database=entry))


def edit(backup: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads((backup / MANIFEST).read_text())
    change(values)
    (backup / MANIFEST).write_text(json.dumps(values))


HARM = (changed, missing, linked, folder_linked, other_database, incomplete, no_json, upwards, absolute,
        the_database_twice, without_settings, newer, with_a_trigger, without_jobs, with_a_last_number)  # fmt: skip


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_what_was_changed_is_refused_before_anything_is_written(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    coordinator(tmp_path / "c")
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    harm(tmp_path / "b")
    with pytest.raises(SalusError) as refused:
        restore(tmp_path / "r", tmp_path / "b")
    assert isinstance(refused.value, StorageError | ConfigError)
    assert str(tmp_path) not in str(refused.value)
    assert not (tmp_path / "r").exists()


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator(tmp_path / "c")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups, "write_private", full)
    with pytest.raises(StorageError, match="disk is full"):
        backup(tmp_path / "c", tmp_path / "b", CLOCK)
    assert not (tmp_path / "b").exists()
    assert not list((tmp_path / "c").glob(f"{backups.STAGE}*"))


def test_folders_on_another_disk_are_in_it_and_nothing_is_missed_in_silence(tmp_path: Path) -> None:
    store, job = coordinator(tmp_path / "c")
    save(store, job, 1)
    for name in ("transcripts", "models"):
        (tmp_path / "disk" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "c" / name).rename(tmp_path / "disk" / name)
        (tmp_path / "c" / name).symlink_to(tmp_path / "disk" / name)
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    restore(tmp_path / "r", tmp_path / "b")
    assert (tmp_path / "r" / "transcripts" / f"{job}.jsonl").read_bytes() == b'{"kind":"a"}\n'
    assert np.array_equal(Checkpoints(tmp_path / "r").load_model(job, 1, LAYOUT)[0], MODEL + 1)
    with pytest.raises(ConfigError, match="inside"):
        backup(tmp_path / "c", tmp_path / "disk" / "transcripts" / "b", CLOCK)
    (tmp_path / "c" / "reports").mkdir()
    (tmp_path / "c" / "reports" / "old").symlink_to(tmp_path / "disk")
    with pytest.raises(StorageError, match="'old' .* a link to another folder"):
        backup(tmp_path / "c", tmp_path / "b2", CLOCK)
    assert not (tmp_path / "b2").exists()


@pytest.mark.parametrize("name", [b"two\nlines", b"caf\xe9"])
def test_a_name_that_a_backup_cannot_hold_is_said_in_one_sentence(tmp_path: Path, name: bytes) -> None:
    coordinator(tmp_path / "c")
    (tmp_path / "c" / os.fsdecode(name)).touch()
    with pytest.raises(StorageError, match="cannot be kept"):
        backup(tmp_path / "c", tmp_path / "b", CLOCK)
    assert not (tmp_path / "b").exists()


def test_what_a_killed_backup_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    coordinator(tmp_path / "c")
    (tmp_path / "c" / f"{backups.STAGE}old" / "models").mkdir(parents=True)
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    assert not list((tmp_path / "c").glob(f"{backups.STAGE}*"))


def test_a_model_that_is_missing_stops_the_backup(tmp_path: Path) -> None:
    store, job = coordinator(tmp_path / "c")
    save(store, job, 1)
    shutil.rmtree(tmp_path / "c" / "models")
    with pytest.raises(StorageError, match="newest model"):
        backup(tmp_path / "c", tmp_path / "b", CLOCK)


def test_from_postgresql_and_back_into_an_empty_database_only(tmp_path: Path, postgres: Postgres) -> None:
    name = postgres.new_database()
    settings = f'database = "{postgres.url(name)}"\ndatabase_password_file = "database.password"\n'
    store, job = coordinator(tmp_path / "c", settings)
    save(store, job, 1)
    store.set_cohort("toy/1", [1, 2])
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(tmp_path / "r", tmp_path / "b")
    assert not (tmp_path / "r").exists()
    rows, records = store.jobs(), store.records(job)
    store.close()
    postgres.drop(name)
    postgres.create(name)
    _, numbers = restore(tmp_path / "r", tmp_path / "b")
    assert not list((tmp_path / "r").glob("coordinator.sqlite*"))
    again = Checkpoints(tmp_path / "r", database_of(tmp_path / "r"))
    assert (again.jobs(), again.records(job), again.cohort("toy/1")) == (rows, records, (1, 2))
    assert again.begin_attempt(job, 2) == numbers.first_attempt
    assert np.array_equal(again.load_model(job, 1, LAYOUT)[0], MODEL + 1)
    again.close()


def test_a_database_that_is_in_use_or_has_any_record_gets_no_jobs(tmp_path: Path, postgres: Postgres) -> None:
    """Two restores at once, or one beside a coordinator without jobs, ended as unexpected errors."""
    url = postgres.url(postgres.new_database())
    password = str(tmp_path / "c" / "database.password")
    store, _ = coordinator(tmp_path / "c")
    store.close()
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    engine = open_engine(tmp_path, url, password)
    claim = Claim(engine)
    claim.hold()
    with pytest.raises(DatabaseTaken, match="or restore uses"):
        restore(tmp_path / "r", tmp_path / "b", url, password)
    claim.end()
    there = Checkpoints(tmp_path, engine)
    there.set_cohort("toy/1", [1, 2])
    with pytest.raises(ConfigError, match="is not empty"):
        restore(tmp_path / "r", tmp_path / "b", url, password)
    assert not there.jobs()
    assert not (tmp_path / "r").exists()
    there.close()


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    coordinator(tmp_path / "c")
    backup(tmp_path / "c", tmp_path / "b", CLOCK)
    before = tree(tmp_path / "b")
    with pytest.raises(ConfigError, match="'b' is not empty"):
        backup(tmp_path / "c", tmp_path / "b", CLOCK)
    assert tree(tmp_path / "b") == before


def test_the_commands_say_what_the_backup_holds_and_what_a_restore_means(tmp_path: Path) -> None:
    coordinator(tmp_path / "c")
    made = salus("server", "backup", tmp_path / "c", tmp_path / "b")
    assert made.returncode == 0, made.stderr
    assert "1 job (1 unfinished)" in made.stdout
    assert "secret keys" in made.stdout
    back = salus("server", "restore", tmp_path / "r", tmp_path / "b")
    assert back.returncode == 0, back.stderr
    assert "Never start two coordinators" in back.stdout
    assert "1 job will continue" in back.stdout
    refused = salus("server", "restore", tmp_path / "r", tmp_path / "b")
    assert refused.returncode == 11
    assert len(refused.stderr.strip().splitlines()) == 1
