"""SIGKILL of each process in each state of a masked round, at a point in its code and not at a random time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text, write_npz
from tests.faults.checks import check_job, check_ledgers, check_logs, found
from tests.faults.federations import POLICY
from tests.faults.kills import EXCHANGES, armed, install
from tests.faults.test_networks import same
from tests.processes import Forked, wait_until

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.trial import Daemon, Trial, empty

SITES, ROUNDS = 5, 2
PLAIN = job_text(rounds=ROUNDS, min_sites=SITES, protection="masking", training='optimizer = "sgd"')
PLAIN = PLAIN.replace("batch_size = 8", "batch_size = 4096").replace("max_patients = 50", "")
NOISY = job_text(
    rounds=ROUNDS,
    min_sites=SITES,
    protection="masking",
    dataset="noised",
    privacy='noise = "local"\nepsilon = 5.0\ndelta = 1e-4',
).replace("max_patients = 50", "")
IN_A_ROUND = [
    f"{process}-{when}-{exchange}"
    for process in ("coordinator", "daemon", "worker")
    for exchange in EXCHANGES
    for when in ("before", "after")
]
OF_THE_COORDINATOR = [f"coordinator-{state}" for state in ("between", "model", "stored", "report", "ended")]
LOST = {"coordinator-model": (1,)}  # a round that was summed, and not stored
SPENDING = [f"{process}-after-{exchange}" for process in ("coordinator", "daemon", "worker") for exchange in (1, 4)]
SPENDING += ["worker-reserving", "worker-reserved", "worker-before-1"]


@dataclass
class World:
    """A federation whose processes can be killed at points, and the model of an undisturbed run."""

    trial: Trial
    undisturbed: dict[str, np.ndarray]

    def run(self, text: str, point: str) -> str:
        """Submit a job, kill a process at this point, start its daemon again, and return the job's id."""
        trial = self.trial
        trial.wait_online(SITES)
        member = trial.coordinator if point.startswith("coordinator") else trial.sites[1]
        ended = len(found(member, "worker-ended"))
        armed(member).write_text(point)
        job = trial.submit(text)
        wait_until(lambda: not armed(member).exists() or self.over(job), f"the point {point}")
        assert not armed(member).exists(), f"the job is over and has not been at {point}"
        if point.startswith("worker"):
            wait_until(lambda: len(found(member, "worker-ended")) > ended or self.over(job), "the daemon to notice")
        else:
            trial.kill(member)  # it has ended
            trial.start(member)
        return job

    def over(self, job: str) -> bool:
        """Return whether a job has ended, by the coordinator's log."""
        return bool(found(self.trial.coordinator, "job-ended", job))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kills") / "t"

    def start(words: Sequence[str], log: Path) -> Daemon:
        return Forked(words, log, partial(install, log.parent))

    empty(folder)
    policy = POLICY.replace("epsilon = 30.0", "epsilon = 1000.0")
    trial = Trial(folder, [f"Site {number}" for number in range(1, SITES + 1)], policy=policy, launcher=start)
    for number, site in enumerate(trial.sites, start=1):
        data = write_npz(site / "toy.npz", seed=number)
        for name in ("toy", "noised"):
            open_catalogue(site).add(name, "medmnist", data, SourceOptions())
    with trial:
        trial.start_all()
        yield World(trial, load_file(trial.wait_for(trial.submit(PLAIN))["model"]))


@pytest.mark.slow
@pytest.mark.parametrize("point", IN_A_ROUND + OF_THE_COORDINATOR)
def test_a_job_ends_with_the_same_model_whichever_process_is_killed_in_whichever_state(
    world: World, point: str
) -> None:
    job = world.run(PLAIN, point)
    check_job(world.trial, job, ROUNDS, again=LOST.get(point, ()))
    result = world.trial.wait_for(job)
    assert [record["sites"] for record in result["rounds"]] == [[1, 2, 3, 4, 5]] * ROUNDS
    assert same(world.undisturbed, load_file(result["model"]))
    assert Path(result["report"]).exists()
    check_logs(world.trial)


@pytest.mark.slow
@pytest.mark.parametrize("point", SPENDING)
def test_no_ledger_spends_more_than_was_reserved_whichever_process_is_killed_in_whichever_state(
    world: World, point: str
) -> None:
    check_job(world.trial, world.run(NOISY, point), ROUNDS, again=LOST.get(point, ()))
    check_ledgers(world.trial)
