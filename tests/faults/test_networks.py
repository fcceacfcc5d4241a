"""Bad networks between real daemons in network namespaces: silence, delay, loss and duplicates."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tests.builders import job_text
from tests.faults.federations import SHORT, federation, hosts
from tests.faults.networks import network

from salus.common.events import read_events
from salus.simulations.trial import Trial

# A masked sum without noise is over the same sites each time, so the model of an undisturbed run is the same.
JOB = job_text(rounds=4, min_sites=5, protection="masking", training='optimizer = "sgd"')
JOB = JOB.replace("batch_size = 8", "batch_size = 4096").replace("max_patients = 50", "")
ROUNDING = 1e-4


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Return whether two models differ by no more than the random rounding of masked sums.

    It stays below 1e-5 in a logistic model, which moves by more than 1e-3 in one round.
    """
    return all(np.allclose(one[name], other[name], rtol=0, atol=ROUNDING) for name in one)


def kinds(member: Path) -> list[str]:
    return [event.kind for event in read_events(member / "events.jsonl")]


def model(trial: Trial, job: str) -> dict[str, np.ndarray]:
    result = trial.wait_for(job)
    assert result["status"] == "finished", result["reason"]
    assert [record["sites"] for record in result["rounds"]] == [[1, 2, 3, 4, 5]] * 4
    return load_file(result["model"])


def test_a_bad_line_costs_time_and_changes_nothing(tmp_path: Path) -> None:
    with network(tmp_path, hosts(5)) as net, federation(tmp_path / "t", net) as trial:
        trial.start_all()
        good = model(trial, trial.submit(JOB))
        net.set(delay_s=0.15, loss=0.02, twice=0.02)
        bad = model(trial, trial.submit(JOB))
    assert same(good, bad)


def test_a_silent_line_is_noticed_and_the_site_comes_back_without_a_person(tmp_path: Path) -> None:
    with network(tmp_path, hosts(5)) as net, federation(tmp_path / "t", net, limits=SHORT) as trial:
        trial.start_all()
        good = model(trial, trial.submit(JOB))
        job = trial.submit(JOB)
        trial.wait_for_round(job, 1)
        before = kinds(trial.sites[2]).count("disconnected")
        net.cut("s3")
        trial._wait(lambda: kinds(trial.sites[2]).count("disconnected") > before or None, "the site to notice", 600)
        net.mend("s3")
        cut = model(trial, job)
    assert same(good, cut)


def test_a_name_that_cannot_be_resolved_for_a_while_costs_nothing_but_the_while(tmp_path: Path) -> None:
    names = tmp_path / "hosts"
    with network(tmp_path, hosts(3)) as net:
        known = f"127.0.0.1 localhost\n{net.address('c')} coordinator.test\n"
        names.write_text(known)
        with federation(tmp_path / "t", net, limits=SHORT, host="coordinator.test", names=names) as trial:
            trial.start_all()
            names.write_text("127.0.0.1 localhost\n")
            trial.kill(trial.sites[1])
            trial.start(trial.sites[1])
            trial._wait(lambda: "disconnected" in kinds(trial.sites[1]) or None, "the site to find no address", 600)
            last = [event for event in read_events(trial.sites[1] / "events.jsonl") if event.kind == "disconnected"][-1]
            assert "cannot be reached" in str(last.fields["text"])
            names.write_text(known)
            trial.wait_online(3)
            result = trial.wait_for(trial.submit(job_text(rounds=1)))
            assert result["rounds"][0]["sites"] == [1, 2, 3]
