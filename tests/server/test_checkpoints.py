"""What the coordinator stores, the same in SQLite and in PostgreSQL."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job
from tests.postgres import PASSWORD, Postgres

from salus.common.errors import JobError, RoundError
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.server.checkpoints import Checkpoints
from salus.server.database import open_engine

JOB = tiny_job(rounds=5)
Open = Callable[[], Checkpoints]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the same store again at each call, as a restart does: the contract is the same in both databases."""
    stores: list[Checkpoints] = []
    url = ""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
        (tmp_path / "password").write_text(PASSWORD)

    def another() -> Checkpoints:
        stores.append(Checkpoints(tmp_path, open_engine(tmp_path, url, "password")))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


def submitted(opened: Open) -> tuple[Checkpoints, str]:
    store = opened()
    return store, store.submit(seal_job(JOB, Identity.generate()), JOB.job.name)


def test_ids_are_unique_and_jobs_come_back_after_a_restart(opened: Open) -> None:
    store, first = submitted(opened)
    _, second = submitted(opened)
    assert (first, second) == ("tiny-0001", "tiny-0002")
    assert opened().job(first).job == JOB
    with pytest.raises(RoundError, match="no job"):
        store.job("tiny-9999")


def test_an_attempt_number_is_never_given_twice_not_even_after_a_restart(opened: Open) -> None:
    store, job = submitted(opened)
    assert [store.begin_attempt(job, 1), store.begin_attempt(job, 1)] == [0, 1]
    assert opened().begin_attempt(job, 1) == 2
    assert store.begin_attempt(job, 2) == 0


def test_active_jobs_are_those_that_have_not_ended_and_what_has_ended_stays_ended(opened: Open) -> None:
    store, first = submitted(opened)
    _, second = submitted(opened)
    store.set_status(second, "running")
    assert [row.job_id for row in store.active()] == [first, second]
    store.set_status(second, "finished")
    store.set_status(second, "running")
    assert store.job(second).status == "finished"
    store.set_status(first, "cancelled")
    assert store.active() == []


def test_model_state_and_records_round_trip_and_old_models_go(opened: Open) -> None:
    store, job = submitted(opened)
    model = build_model(JOB.task, 0)
    layout = layout_of(model)
    vector = read_parameters(model, layout)
    for round_ in range(1, 5):
        store.save_round(job, round_, layout, vector + round_, {"momentum": np.arange(3.0)}, {"round": round_})
    loaded, state = opened().load_model(job, 4, layout)
    assert np.array_equal(loaded, vector + 4)
    assert state["momentum"].tolist() == [0, 1, 2]
    assert [record["round"] for record in store.records(job)] == [1, 2, 3, 4]
    assert sorted(path.name for path in store.model_path(job, 0).parent.iterdir()) == [
        "round-00003.safetensors",
        "round-00004.safetensors",
    ]


def test_a_damaged_model_file_is_one_clear_error(opened: Open) -> None:
    store, job = submitted(opened)
    layout = layout_of(build_model(JOB.task, 0))
    path = store.model_path(job, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a fi")
    with pytest.raises(RoundError, match="round-00001"):
        store.load_model(job, 1, layout)


def test_a_stopped_job_is_queued_again_with_its_rounds_and_no_other(opened: Open) -> None:
    store = opened()
    signed = seal_job(tiny_job(), Identity.generate())
    job = store.submit(signed, "tiny")
    with pytest.raises(JobError, match="is waiting"):
        store.reopen(job)
    store.set_status(job, "failed", "too few sites")
    store.save_record(job, 1, {"round": 1})
    store.reopen(job)
    assert (store.job(job).status, store.job(job).reason) == ("waiting", "")
    assert len(store.records(job)) == 1
    assert len(store.active()) == 1
    store.set_status(job, "finished")
    with pytest.raises(JobError, match="is finished"):
        store.reopen(job)


def test_jobs_that_are_submitted_at_once_get_different_numbers(opened: Open) -> None:
    store, found = opened(), list[str]()
    signed = seal_job(JOB, Identity.generate())
    threads = [threading.Thread(target=lambda: found.append(store.submit(signed, "tiny"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [f"tiny-{number:04d}" for number in range(1, 9)]


def test_the_first_cohort_of_a_scope_stays(opened: Open) -> None:
    store = opened()
    assert store.cohort("toy/1") == ()
    store.set_cohort("toy/1", [3, 1])
    store.set_cohort("toy/1", [1, 2, 3])
    assert [store.cohort("toy/1") for _ in range(2)] == [(1, 3)] * 2
    assert opened().cohort("toy/1") == (1, 3)


def test_a_job_keeps_the_roster_of_its_first_attempt(opened: Open) -> None:
    store, job = submitted(opened)
    assert not store.attempted(job)
    assert store.begin(job, "first") == "first"
    assert opened().begin(job, "second") == "second", "no site has been asked yet"
    store.begin_attempt(job, 1)
    assert store.attempted(job)
    assert opened().begin(job, "third") == "second"
    assert store.job(job).status == "running"


def test_declarations_come_back_and_the_newest_counts(opened: Open) -> None:
    store = opened()
    assert store.declarations("key") is None
    for day in (1, 2):
        store.put_declarations("key", {"toy": None}, datetime(2026, 11, day, tzinfo=UTC).isoformat())
    found = opened().declarations("key")
    assert found is not None
    assert found == ({"toy": None}, "2026-11-02T00:00:00+00:00")


def test_a_round_that_is_saved_again_replaces_the_first(opened: Open) -> None:
    store, job = submitted(opened)
    store.save_record(job, 1, {"round": 1, "loss": 2.5})
    store.save_record(job, 1, {"round": 1, "loss": 1.5})
    assert opened().records(job) == [{"round": 1, "loss": 1.5}]


def test_a_reason_may_hold_what_a_site_sent(opened: Open) -> None:
    store, job = submitted(opened)
    store.set_status(job, "failed", "a \0 and half a \ud800 character")
    assert store.job(job).reason == "a  and half a ? character"


def test_the_check_for_space_changes_nothing(opened: Open) -> None:
    store, job = submitted(opened)
    before = store.job(job)
    store.check_writable(job)
    assert store.job(job) == before
