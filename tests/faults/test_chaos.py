"""Chaos: eight real sites and a coordinator in network namespaces, twenty masked rounds, and random faults of docs/faults.md.

The limits of time of the link are short in these processes, so that a line that is cut for longer than all of them takes
seconds (`tests.faults.federations.SHORT`). A masked job without noise is over the same sites in each round, so it must end with
the model of the undisturbed run, up to the random rounding of masked sums. A second job, with noise, runs at the same time:
its ledgers must hold.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text
from tests.faults.checks import check_job, check_ledgers, found
from tests.faults.disks import Disk, small_disk
from tests.faults.federations import SHORT, federation, hosts
from tests.faults.networks import Network, network

from salus.common.errors import SalusError
from salus.simulations.trial import Trial, empty

SITES, ROUNDS, NOISY_ROUNDS = 8, 20, 3
ROUNDING = 1e-4  # a logistic model keeps the rounding of 20 rounds below 1e-5, and moves by more than 1e-3 in one round
PLAIN = (
    job_text(rounds=ROUNDS, min_sites=5, protection="masking", training='optimizer = "sgd"')
    .replace("batch_size = 8", "batch_size = 4096")
    .replace("learning_rate = 0.02", "learning_rate = 0.1")
)
NOISY = job_text(
    rounds=NOISY_ROUNDS,
    min_sites=5,
    protection="masking",
    dataset="noised",
    privacy='noise = "local"\nepsilon = 5.0\ndelta = 1e-4',
).replace("max_patients = 50", "")


@dataclass
class World:
    """The federation, and the model of the undisturbed run."""

    trial: Trial
    net: Network
    disks: dict[str, Disk]
    undisturbed: dict[str, np.ndarray]

    def site(self, number: int) -> Path:
        return self.trial.sites[number - 1]

    def count(self, member: Path, kind: str) -> int:
        """Return how often an event stands in a member's log."""
        return len(found(member, kind))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    with ExitStack() as stack:
        empty(folder / "t")
        net = stack.enter_context(network(folder, hosts(SITES)))
        disks = {name: stack.enter_context(small_disk(folder / "t" / name, 48)) for name in ("coordinator", "site-3")}
        trial = stack.enter_context(
            federation(folder / "t", net, datasets=("toy", "noised"), limits=SHORT, emptied=True)
        )
        trial.start_all()
        result = trial.wait_for(trial.submit(PLAIN))
        assert result["status"] == "finished", result["reason"]
        yield World(trial, net, disks, load_file(result["model"]))


Fault = Callable[[World, random.Random], None]


def kill_a_site(world: World, draw: random.Random) -> None:
    site = draw.choice(world.trial.sites)
    world.trial.kill(site)
    world.trial.start(site)


def kill_the_coordinator(world: World, draw: random.Random) -> None:
    world.trial.kill(world.trial.coordinator)
    world.trial.start(world.trial.coordinator)


def kill_all(world: World, draw: random.Random) -> None:
    """A loss of power of the whole consortium."""
    world.trial.restart()


def cut_a_line(world: World, draw: random.Random) -> None:
    """Silence for longer than every limit of the link."""
    number = draw.randint(1, SITES)
    before = world.count(world.site(number), "disconnected")
    world.net.cut(f"s{number}")
    wait(world, lambda: world.count(world.site(number), "disconnected") > before, "a cut site to notice")
    world.net.mend(f"s{number}")


def cut_the_coordinator(world: World, draw: random.Random) -> None:
    before = [world.count(site, "disconnected") for site in world.trial.sites]
    world.net.cut("c")
    wait(
        world,
        lambda: all(world.count(s, "disconnected") > n for s, n in zip(world.trial.sites, before, strict=True)),
        "all sites to notice",
    )
    world.net.mend("c")


def a_bad_line(world: World, draw: random.Random) -> None:
    """300 ms, 2 % loss and duplicates for two rounds."""
    world.net.set(delay_s=0.15, loss=0.02, twice=0.02)
    progress(world, 1)
    world.net.set(delay_s=0.0, loss=0.0, twice=0.0)


def fill_the_coordinators_disk(world: World, draw: random.Random) -> None:
    world.disks["coordinator"].fill()
    wait(world, lambda: bool(world.trial.admin.get("/status")["storage"]) or over(world), "a full disk to be noticed")
    world.disks["coordinator"].free()


def fill_a_sites_disk(world: World, draw: random.Random) -> None:
    before = world.count(world.trial.coordinator, "left-out")
    world.disks["site-3"].fill()
    wait(world, lambda: world.count(world.trial.coordinator, "left-out") > before or over(world), "a site's full disk")
    world.disks["site-3"].free()


FAULTS: tuple[Fault, ...] = (
    kill_a_site, kill_the_coordinator, kill_all, cut_a_line, cut_the_coordinator, a_bad_line,
    fill_the_coordinators_disk, fill_a_sites_disk,
)  # fmt: skip


LOSE_A_SUM = {
    kill_the_coordinator,
    kill_all,
    fill_the_coordinators_disk,
}  # one that is opened and not stored is made again


def wait(world: World, true: Callable[[], bool], what: str) -> None:
    world.trial._wait(lambda: true() or None, what, 900)


def over(world: World) -> bool:
    """Return whether no job runs any more, so that nothing can meet a fault."""
    try:
        return all(job["status"] not in ("waiting", "running") for job in world.trial.admin.get("/jobs"))
    except SalusError:  # its database cannot be read
        return False


def progress(world: World, rounds: int) -> None:
    """Wait until this many rounds more are done, of whichever job, or all jobs are over."""

    def done() -> int:
        return world.count(world.trial.coordinator, "round")

    before = done()
    wait(world, lambda: done() >= before + rounds or over(world), "progress")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_a_job_survives_chaos_and_ends_with_the_same_model(world: World, seed: int) -> None:
    draw, trial = random.Random(seed), world.trial
    job, noisy = trial.submit(PLAIN), trial.submit(NOISY)
    chosen = draw.sample(FAULTS, k=len(FAULTS) if seed else 5)  # each once, in any order; fewer in the everyday run
    for fault in chosen:
        progress(world, draw.randint(1, 2))
        fault(world, draw)
    for submitted, rounds in ((job, ROUNDS), (noisy, NOISY_ROUNDS)):
        check_job(trial, submitted, rounds, range(1, rounds + 2) if LOSE_A_SUM & {*chosen} else ())
    result = trial.wait_for(job)
    for site in trial.sites:
        assert world.count(site, "contributed-nothing") == 0, site.name
    patients = [record["cohort"]["patients"] for record in result["rounds"]]
    assert len(set(patients)) == 1, "a site took part without its data"
    assert all(record["sites"] == list(range(1, SITES + 1)) for record in result["rounds"])
    path = Path(result["model"])
    assert difference(world.undisturbed, load_file(path)) < ROUNDING
    before = load_file(path.with_name(f"round-{ROUNDS - 1:05d}.safetensors"))
    assert difference(world.undisturbed, before) > ROUNDING, "the comparison would notice one round"
    check_ledgers(trial)
    trial.wait_online(SITES)


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)
