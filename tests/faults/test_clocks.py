"""Wall clocks that are wrong, or are set while daemons run."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.faults.checks import check_job, check_ledgers, found
from tests.faults.clocks import DAY_S, HOUR_S, Clocks, clocks
from tests.faults.federations import POLICY, SHORT, begin
from tests.processes import Forked

from salus.client.config import open_catalogue, open_ledger
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.budget import Budget
from salus.common.clock import SystemClock
from salus.simulations.trial import Daemon, Trial, empty

ROUNDS = 3
JOB = job_text(
    rounds=ROUNDS,
    min_sites=4,
    protection="masking",
    privacy='noise = "local"\nepsilon = 2.0\ndelta = 1e-4',
).replace("max_patients = 50", "")
LIMITS = {**SHORT, "salus.server.link_clocks:TELL_EVERY_S": 1.0}  # 3600
Stepped = tuple[Trial, Clocks]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stepped]:
    """A federation of five sites, whose clocks can be stepped, and whose links notice silence soon."""
    folder = tmp_path_factory.mktemp("clocks")
    with clocks(folder) as steps:

        def start(words: Sequence[str], log: Path) -> Daemon:
            return Forked(words, log, partial(begin, "", LIMITS, None, steps.given(log.parent.name)), steps.server)

        empty(folder / "t")
        trial = Trial(folder / "t", [f"Site {n}" for n in range(1, 6)], policy=POLICY, launcher=start)
        for number, site in enumerate(trial.sites, start=1):
            data = write_npz(site / "toy.npz", seed=number)
            open_catalogue(site).add("toy", "medmnist", data, SourceOptions())
        with trial:
            trial.start_all()
            yield trial, steps


def last(member: Path, kind: str) -> str:
    """Return the text of the newest event of a kind."""
    events = found(member, kind)
    return str(events[-1].fields["text"]) if events else ""


def spent(site: Path) -> float:
    """Return the most that a patient of a site has spent by now."""
    budget = Budget(epsilon=30.0)
    return max((group.epsilon(budget.delta) for group in open_ledger(site, SystemClock()).groups(budget)), default=0.0)


slowly = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("seconds", [-HOUR_S, slowly(-DAY_S), slowly(HOUR_S)])
def test_a_site_whose_clock_is_set_wrong_in_a_job_is_refused_says_so_and_comes_back(
    stepped: Stepped, seconds: int
) -> None:
    trial, steps = stepped
    site, job = trial.sites[0], trial.submit(JOB)
    trial.wait_for_round(job, 1)
    before, told = len(found(site, "disconnected")), len(found(trial.coordinator, "clock-differs"))
    steps.step(seconds, site.name)
    trial._wait(lambda: len(found(trial.coordinator, "clock-differs")) > told or None, "the coordinator to say so", 600)
    assert last(trial.coordinator, "clock-differs").startswith("The clock of site 1 is ")
    trial._wait(lambda: len(found(site, "disconnected")) > before or None, "the site to be refused", 600)
    trial._wait(lambda: "both clocks" in last(site, "disconnected") or None, "the site to say so", 600)
    check_job(trial, job, ROUNDS)  # the others go on
    known = spent(site)
    assert known > 0
    steps.step(0, site.name)
    trial.wait_online(5)
    job = trial.submit(JOB.replace(f"rounds = {ROUNDS}", "rounds = 1"))
    check_job(trial, job, 1)
    assert 1 in trial.wait_for(job)["rounds"][0]["sites"]  # a busy machine may be too late for another one
    assert spent(site) > known, "what was spent before counts"
    check_ledgers(trial)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-HOUR_S, -DAY_S, DAY_S])
def test_a_coordinator_whose_clock_is_set_wrong_in_a_job_waits_and_goes_on_when_it_is_right(
    stepped: Stepped, seconds: int
) -> None:
    trial, steps = stepped
    job = trial.submit(JOB)
    trial.wait_for_round(job, 1)
    told = len(found(trial.coordinator, "clock-differs"))
    before = {site: len(found(site, "disconnected")) for site in trial.sites}
    steps.step(seconds, "coordinator")

    def refused(site: Path) -> bool | None:
        return (len(found(site, "disconnected")) > before[site] and "both clocks" in last(site, "disconnected")) or None

    for site in trial.sites:
        trial._wait(partial(refused, site), "a site to be refused", 600)
    said = found(trial.coordinator, "clock-differs")[told:]
    assert {event.fields["site"] for event in said} == {1, 2, 3, 4, 5}
    assert all("it is this machine's" in str(event.fields["text"]) for event in said)
    steps.step(0, "coordinator")
    check_job(trial, job, ROUNDS)
    trial.wait_online(5)
    check_ledgers(trial)
