from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job

from salus.common.errors import JobError, RoundError
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.server.checkpoints import Checkpoints

JOB = tiny_job(rounds=5)


def submitted(folder: Path) -> tuple[Checkpoints, str]:
    store = Checkpoints(folder)
    return store, store.submit(seal_job(JOB, Identity.generate()), JOB.job.name)


def test_ids_are_unique_and_jobs_come_back_after_a_restart(tmp_path: Path) -> None:
    store, first = submitted(tmp_path)
    _, second = submitted(tmp_path)
    assert (first, second) == ("tiny-0001", "tiny-0002")
    assert Checkpoints(tmp_path).job(first).job == JOB
    with pytest.raises(RoundError, match="no job"):
        store.job("tiny-9999")


def test_an_attempt_number_is_never_given_twice_not_even_after_a_restart(tmp_path: Path) -> None:
    store, job = submitted(tmp_path)
    assert [store.begin_attempt(job, 1), store.begin_attempt(job, 1)] == [0, 1]
    assert Checkpoints(tmp_path).begin_attempt(job, 1) == 2
    assert store.begin_attempt(job, 2) == 0


def test_active_jobs_are_those_that_have_not_ended_and_what_has_ended_stays_ended(tmp_path: Path) -> None:
    store, first = submitted(tmp_path)
    _, second = submitted(tmp_path)
    store.set_status(second, "running")
    assert [row.job_id for row in store.active()] == [first, second]
    store.set_status(second, "finished")
    store.set_status(second, "running")
    assert store.job(second).status == "finished"
    store.set_status(first, "cancelled")
    assert store.active() == []


def test_model_state_and_records_round_trip_and_old_models_go(tmp_path: Path) -> None:
    store, job = submitted(tmp_path)
    model = build_model(JOB.task, 0)
    layout = layout_of(model)
    vector = read_parameters(model, layout)
    for round_ in range(1, 5):
        store.save_round(job, round_, layout, vector + round_, {"momentum": np.arange(3.0)}, {"round": round_})
    loaded, state = Checkpoints(tmp_path).load_model(job, 4, layout)
    assert np.array_equal(loaded, vector + 4)
    assert state["momentum"].tolist() == [0, 1, 2]
    assert [record["round"] for record in store.records(job)] == [1, 2, 3, 4]
    assert sorted(path.name for path in store.model_path(job, 0).parent.iterdir()) == [
        "round-00003.safetensors",
        "round-00004.safetensors",
    ]


def test_a_damaged_model_file_is_one_clear_error(tmp_path: Path) -> None:
    store, job = submitted(tmp_path)
    layout = layout_of(build_model(JOB.task, 0))
    path = store.model_path(job, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a fi")
    with pytest.raises(RoundError, match="round-00001"):
        store.load_model(job, 1, layout)


def test_a_stopped_job_is_queued_again_with_its_rounds_and_no_other(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
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
