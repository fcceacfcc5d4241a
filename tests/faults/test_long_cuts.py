"""A line that is cut for an hour and for a day, compressed: the limits of the link are short, and all wall clocks are stepped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.builders import job_text
from tests.cli import salus
from tests.faults.checks import check_job, check_ledgers, check_logs, found
from tests.faults.clocks import HOUR_S, Clocks, clocks
from tests.faults.federations import SHORT, federation, hosts
from tests.faults.networks import Network, network
from tests.faults.test_networks import same

from salus.common.clock import SystemClock
from salus.server.consortium import Consortium
from salus.simulations.trial import Trial

SITES, ROUNDS = 5, 3
PLAIN = job_text(rounds=ROUNDS, min_sites=SITES, protection="masking", training='optimizer = "sgd"')
PLAIN = PLAIN.replace("batch_size = 8", "batch_size = 4096").replace("max_patients = 50", "")
NOISY = job_text(
    rounds=2,
    min_sites=SITES,
    protection="masking",
    dataset="noised",
    privacy='noise = "local"\nepsilon = 5.0\ndelta = 1e-4',
).replace("max_patients = 50", "")
IMPATIENT = PLAIN.replace("join_timeout_s = 3600.0", "join_timeout_s = 3.0").replace('"toy"', '"other"')
LIMITS = {
    **SHORT,
    "salus.server.link_sessions:LIFETIME_S": 15.0,  # 86,400: a session ends while a line is cut for a day
    "salus.client.executors.base:SESSION_S": 8.0,  # 43,200: so does a worker that waits in the middle of a sum
}


@dataclass
class World:
    """A federation whose lines can be cut and whose clocks can be stepped."""

    trial: Trial
    net: Network
    clocks: Clocks

    @property
    def away(self) -> Path:
        """The site whose line is cut."""
        return self.trial.sites[2]

    def pass_time(self, seconds: int) -> None:
        """Step the clock of every member."""
        self.clocks.step(seconds, "coordinator", *(site.name for site in self.trial.sites))

    def wait(self, kind: str, *, member: Path | None = None, job: str = "", more_than: int = 0) -> None:
        """Wait for more events of a kind than there were."""
        where = member or self.trial.coordinator
        self.trial._wait(lambda: len(found(where, kind, job)) > more_than or None, f"{kind} of {where.name}", 600)

    def issue(self) -> int:
        """Issue a new roster, give the coordinator its kit, and return its serial."""
        consortium = Consortium(self.trial.folder / "consortium", SystemClock())
        kit = consortium.issue(self.trial.folder / "kits", days=365)[0]
        done = salus("server", "join", self.trial.coordinator, kit)
        assert done.returncode == 0, done.stderr
        return int(self.trial.admin.get("/status")["roster"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cuts")
    with (
        clocks(folder) as steps,
        network(folder, hosts(SITES)) as net,
        federation(folder / "t", net, datasets=("toy", "other", "noised"), limits=LIMITS, clocks=steps) as trial,
    ):
        for site in trial.sites:
            (site / "site.toml").write_text((site / "site.toml").read_text() + "[executor]\nidle_minutes = 0.1\n")
        trial.start_all()
        yield World(trial, net, steps)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0, HOUR_S), (HOUR_S, HOUR_S + 25 * HOUR_S)], ids=["hour", "day"])
def test_after_a_long_cut_the_site_is_back_and_each_job_goes_on(world: World, before: int, after: int) -> None:
    trial, away = world.trial, world.away
    good = trial.wait_for(trial.submit(PLAIN))
    assert good["status"] == "finished", good["reason"]
    noticed, told = len(found(away, "disconnected")), len(found(away, "roster-installed"))

    world.net.set(delay_s=0.1)  # so that a round is not over before its line is cut
    running = trial.submit(PLAIN)
    trial.wait_for_round(running, 1)
    world.wait("attempt", job=running, more_than=1)
    world.net.cut("s3")
    waiting, impatient = trial.submit(NOISY, anyway=True), trial.submit(IMPATIENT, anyway=True)
    world.wait("disconnected", member=away, more_than=noticed)
    world.wait("waiting", job=running)
    world.pass_time(after)
    serial = world.issue()
    world.wait("waiting", job=waiting)
    ended = trial.wait_for(impatient)
    assert (ended["status"], ended["rounds"]) == ("failed", [])
    assert "missing: site 3" in ended["reason"]
    assert {trial.admin.get(f"/jobs/{job}")["status"] for job in (running, waiting)} == {"running"}
    world.net.set(delay_s=0.0)
    world.net.mend("s3")

    check_job(trial, running, ROUNDS)
    assert "site 3" in str(found(trial.coordinator, "waiting", running)[0].fields["text"])
    check_job(trial, waiting, 2)
    assert salus("job", "resume", trial.coordinator, impatient).returncode == 0
    check_job(trial, impatient, ROUNDS)
    for job in (running, impatient):
        assert same(load_file(good["model"]), load_file(trial.wait_for(job)["model"]))
    world.wait("roster-installed", member=away, more_than=told)
    assert found(away, "roster-installed")[-1].fields["serial"] == serial
    trial.wait_online(SITES)
    check_ledgers(trial)
    check_logs(trial)
