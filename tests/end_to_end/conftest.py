"""One real federation for all tests that need one: five sites and a coordinator, started once for each test process.

A test gets it whole: every daemon runs, every site is online and has the usual policy. It may kill, stop and restart what
it likes. Data sets, jobs and cohorts of earlier tests are still there, as in any federation that has been used.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.builders import write_npz
from tests.processes import Forked

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.trial import Daemon, Trial, empty, launch

POLICY = """
allow_unprotected = true
allow_without_noise = true
key_holders = [2]
checks_per_hour = 1000
[budget]
epsilon = 30.0
"""
SITES = 5
# In one cohort epoch a data set keeps its protection and everything that selects or weighs patients: one for each kind of job,
# and one for each module whose masked jobs differ from those of others.
DATASETS = ("toy", "masked", "encrypted", "measured", "noised", "large", "many", "worker", "failing")


def start(words: Sequence[str], log: Path) -> Daemon:
    """The coordinator and the first site begin in new interpreters, as in real use; the others, and later starts, are forked."""
    first = not log.exists() and log.parent.name in ("coordinator", "site-1")
    return (launch if first else Forked)(words, log)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("federation")
    empty(folder)
    trial = Trial(folder, [f"Site {n}" for n in range(1, SITES + 1)], policy=POLICY, launcher=start)
    for number, site in enumerate(trial.sites, start=1):
        data = write_npz(site / "toy.npz", seed=number, images=60)
        for name in DATASETS:
            open_catalogue(site).add(name, "medmnist", data, SourceOptions())
    with trial:
        yield trial


@pytest.fixture
def federation(started: Trial) -> Trial:
    """The federation, whole."""
    for site in started.sites:
        (site / "policy.toml").write_text(POLICY)
    started.start_missing()
    started.wait_online(SITES)
    return started
