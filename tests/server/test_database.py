"""PostgreSQL by URL: no password in any message, refusals in words, and a database that is gone for a while."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.builders import job_text, tiny_job
from tests.postgres import PASSWORD, Postgres

from salus.common.clock import SystemClock
from salus.common.errors import ConfigError, StorageError
from salus.common.events import Event
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.strict import load_toml
from salus.server import database
from salus.server.checkpoints import Checkpoints
from salus.server.config import ServerConfig, ServerFolder
from salus.server.daemon import IDLE_POLL_S, CoordinatorDaemon
from salus.server.database import DatabaseGone, DatabaseTaken, open_engine, patient
from salus.server.scheduling import Scheduler
from salus.server.tables import COHORTS
from salus.server.wishes import Wishes
from salus.simulations.trial import Trial


def config(folder: Path, text: str) -> ServerConfig:
    (folder / "server.toml").write_text(f"port = 8443\n{text}\n")
    return load_toml(ServerConfig, folder / "server.toml", error=ConfigError, what="server file")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://salus:hunter2@db.example.org/salus", "the password belongs into"),
        ("postgresql+psycopg://salus:hunter2@db.example.org:x/salus", "expected postgresql"),
        ("mysql://salus:hunter2@db.example.org/salus", "expected postgresql"),
        ("hunter2", "expected postgresql"),
        ("postgresql+psycopg://salus@db.example.org/salus?password=hunter2", "unknown options"),
    ],
)
def test_a_wrong_url_is_refused_without_being_repeated(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        config(tmp_path, f'database = "{url}"')
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("rest", "mode"),
    [
        ("db.example.org/salus", "verify-full"),
        ("/salus?host=db.example.org", "verify-full"),
        ("/salus?host=/run/postgresql,db.example.org", "verify-full"),
        ("127.0.0.1/salus", None),
        ("/salus?host=/run/postgresql", None),
        ("db.example.org/salus?sslmode=require", None),
    ],
)
def test_over_a_network_the_server_must_prove_who_it_is_unless_the_operator_says_otherwise(
    rest: str, mode: str | None
) -> None:
    url = database.check_url(f"postgresql+psycopg://salus@{rest}")
    assert database._arguments(url, "").get("sslmode") == mode


def test_a_missing_password_file_is_named_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="database_password_file") as refused:
        open_engine(tmp_path, "postgresql+psycopg://salus@127.0.0.1/salus", "secret.password")
    assert "secret.password" not in str(refused.value)


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(database.PASSWORD, PASSWORD)
    return postgres.url(postgres.new_database())


def test_the_password_comes_from_a_file_or_the_environment_and_a_wrong_one_is_said_without_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_engine(tmp_path, url).dispose()
    monkeypatch.delenv(database.PASSWORD)
    (tmp_path / "p").write_text(PASSWORD + "\n")
    open_engine(tmp_path, url, "p").dispose()
    (tmp_path / "p").write_text("another password")
    with pytest.raises(StorageError, match="refuses the user or the password") as refused:
        open_engine(tmp_path, url, "p")
    for secret in ("another password", PASSWORD, "127.0.0.1", "postgresql+psycopg"):
        assert secret not in str(refused.value)
    monkeypatch.setenv(database.PASSWORD, "")
    with pytest.raises(StorageError, match="expects a password"):
        open_engine(tmp_path, url)
    (tmp_path / "p").write_text(PASSWORD)
    with pytest.raises(StorageError, match="no such database"):
        open_engine(tmp_path, url + "0000", "p")


def test_an_engine_shows_no_password_and_an_error_of_our_own_no_values(url: str, tmp_path: Path) -> None:
    engine = open_engine(tmp_path, url)
    assert PASSWORD not in repr(engine) + str(engine.url)
    with engine.connect() as connection, pytest.raises(sa.exc.ProgrammingError) as problem:
        connection.execute(sa.text("SELECT nothing FROM nowhere WHERE x = :x"), {"x": "a value"})
    assert "a value" not in str(problem.value)
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(url: str, tmp_path: Path) -> None:
    engine = open_engine(tmp_path, url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    engine.dispose()
    with pytest.raises(StorageError, match="reading side is too old"):
        open_engine(tmp_path, url)


def test_a_database_with_other_tables_is_refused(url: str, tmp_path: Path, postgres: Postgres) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), password=PASSWORD, autocommit=True) as connection:
        connection.execute("CREATE TABLE patients (name text)")
    with pytest.raises(StorageError, match="does not state a format"):
        open_engine(tmp_path, url)


def test_while_the_database_is_gone_a_job_waits_and_a_question_is_refused_at_once(
    url: str, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path, open_engine(tmp_path, url))
    job = store.submit(seal_job(tiny_job(), Identity.generate()), "tiny")
    postgres.stop()
    try:
        with pytest.raises(DatabaseGone, match="Check that it is running") as gone:
            store.active()
        assert PASSWORD not in str(gone.value)
        monkeypatch.setattr(database, "FIRST_PAUSE_S", 0.01)
        waited, found = threading.Event(), []
        monkeypatch.setattr(store.stopping, "wait", lambda pause_s: waited.set() or threading.Event().wait(0.01))
        thread = threading.Thread(target=lambda: found.append(store.begin_attempt(job, 1)))
        thread.start()
        assert waited.wait(60)
    finally:
        postgres.start()
    thread.join(60)
    assert found == [0]
    assert [row.job_id for row in store.active()] == [job]
    store.close()


class Stopping:
    """A store whose database is gone."""

    def __init__(self) -> None:
        self.stopping, self.calls = threading.Event(), 0

    @patient
    def ask(self) -> None:
        self.calls += 1
        self.stopping.set()
        raise DatabaseGone("Gone.", remedy="")


def test_a_store_that_stops_waits_no_longer() -> None:
    store = Stopping()
    with pytest.raises(DatabaseGone):
        store.ask()
    assert store.calls == 1


def test_a_second_coordinator_on_the_same_database_waits_and_takes_over_when_the_first_one_ends(
    url: str, tmp_path: Path
) -> None:
    first, second = (Checkpoints(tmp_path / name, open_engine(tmp_path, url)) for name in ("a", "b"))
    first.claim()
    first.claim()
    with pytest.raises(DatabaseTaken, match="Another coordinator"):
        second.claim()
    jobs = Scheduler(second, lambda row: None, 4, lambda: True, Wishes(tmp_path), second.set_status)
    with pytest.raises(DatabaseTaken):
        jobs.begin_due()
    assert jobs.must_end("any")
    first.close()
    jobs.begin_due()
    assert not jobs.must_end("any")
    second.close()


def test_a_coordinator_whose_database_is_gone_says_so_keeps_its_jobs_and_goes_on(
    url: str, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(tmp_path / "t", ["One", "Two"], policy="")
    settings = trial.coordinator / "server.toml"
    settings.write_text(settings.read_text() + f'database = "{url}"\n')
    told: list[Event] = []
    opened = ServerFolder.open(trial.coordinator, SystemClock())
    daemon = CoordinatorDaemon(opened, SystemClock(), told.append)
    assert not (trial.coordinator / "coordinator.sqlite").exists()
    job = daemon.submit(job_text(), anyway=True)
    monkeypatch.setattr(daemon._runner, "_work", lambda *_: None)
    postgres.stop()
    try:
        pause = daemon._look_for_work(IDLE_POLL_S)
        assert daemon._look_for_work(pause) > IDLE_POLL_S
        assert [event.kind for event in told] == ["storage-failed"], "it is said once"
        assert daemon.status()["queue"] is None
        assert "PostgreSQL" in daemon.status()["storage"]
        with pytest.raises(StorageError, match="PostgreSQL"):
            daemon.submit(job_text(), anyway=True)
    finally:
        postgres.start()
    assert daemon._look_for_work(pause) == IDLE_POLL_S
    daemon._scheduler.join()
    assert [(row.job_id, row.status) for row, _ in daemon.jobs()] == [(job, "finished")]
    assert "storage-restored" in [event.kind for event in told]
    assert daemon.status()["storage"] == ""
    log = (trial.coordinator / "events.jsonl").read_text()
    assert PASSWORD not in log + str(daemon.status())
    assert "127.0.0.1" not in log
    daemon._checkpoints.close()


def test_the_driver_logs_nothing_that_names_the_server_or_the_user(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(tmp_path, url)
    rows = [{"scope": str(number % 2), "sites": "1" * 100_000} for number in range(100)]
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(COHORTS.insert(), rows)
    engine.dispose()
    assert not caplog.text
