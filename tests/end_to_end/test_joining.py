"""A hospital joins, one renews, one is revoked while a job runs, and nobody else has to do anything."""

import json
import os
import signal
from pathlib import Path

from tests.builders import job_text, write_npz
from tests.cli import salus
from tests.processes import Forked, wait_until

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.clock import SystemClock
from salus.common.events import read_events
from salus.server.consortium import Consortium
from salus.simulations.trial import Trial, empty

POLICY = "[budget]\nepsilon = 30.0\n"
NOISE = 'noise = "local"\nepsilon = 2.0\nsampling_rate = 0.5\npatients_per_site = 16'
ROSTER = {"trust/kit.json", "trust/transport.crt"}
LOG = {"events.jsonl", "daemon.log"}
OF_A_JOB = (
    "ledger.sqlite",
    "sessions.sqlite",
    "rosters.sqlite",
    "catalogue.sqlite",
    "states/",
    "cache/",
    "starts/",
    "working.json",
)


def give_data(site: Path) -> None:
    data = write_npz(site / "toy.npz", seed=int(site.name[5:]), images=60)
    open_catalogue(site).add("toy", "medmnist", data, SourceOptions())


def contents(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def changed(site: Path, before: dict[str, bytes]) -> set[str]:
    now = contents(site)
    return {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}


def fetched(trial: Trial, serial: int, *sites: int) -> None:
    """Wait until these sites have fetched this roster."""

    def there() -> bool:
        known = {site["site"]: site for site in trial.admin.get("/status")["sites"]}
        return all(known[site]["roster"] == serial and not known[site]["roster_problem"] for site in sites)

    wait_until(there, f"roster {serial} at sites {sites}")


def issue(trial: Trial) -> str:
    """Issue a roster and give the coordinator its kit, which is all that people do; return what the command said."""
    consortium = Consortium(trial.folder / "consortium", SystemClock())
    kits = consortium.issue(trial.folder / "kits", days=365)
    done = salus("server", "join", trial.coordinator, kits[0])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hospital_joins_one_renews_and_one_is_revoked_while_a_job_runs(tmp_path: Path) -> None:
    empty(tmp_path / "t")
    trial = Trial(tmp_path / "t", [f"Site {number}" for number in range(1, 6)], policy=POLICY, launcher=Forked)
    for site in trial.sites:
        give_data(site)
    one, two, three, four, _ = sites = list(trial.sites)
    with trial:
        trial.start_all()
        fetched(trial, 1, 1, 2, 3, 4, 5)
        pids = {site: trial.process_id(site) for site in [trial.coordinator, *sites]}
        first = trial.submit(job_text(rounds=3, protection="masking", min_sites=4, privacy=NOISE))
        trial.wait_for_round(first, 1)
        os.kill(trial.process_id(one), signal.SIGSTOP)  # no round ends without site 1, so the job runs until it goes on
        trial.kill(three)  # away while the roster changes
        del pids[three]
        before = {site: contents(site) for site in sites}

        six = trial.admit("Site 6")
        give_data(six)
        consortium = Consortium(trial.folder / "consortium", SystemClock())
        consortium.remove("Site 2")
        said = issue(trial)
        assert "uses roster 2 now: Site 6 joined; Site 2 left" in said
        listed = trial.admin.get("/status")
        assert [site["site"] for site in listed["sites"]] == [1, 3, 4, 5, 6], "at once, before the command has ended"
        fetched(trial, 2, 4, 5)
        joined = salus("client", "join", six, trial.folder / "kits" / "site-6.kit")
        assert joined.returncode == 0, joined.stderr
        trial.start(six)
        fetched(trial, 2, 6)
        assert trial.admin.get(f"/jobs/{first}")["status"] == "running"

        trial.start(three)  # its old certificate lets it in, and it fetches the new one
        os.kill(trial.process_id(one), signal.SIGCONT)
        fetched(trial, 2, 1, 3)
        result = trial.wait_for(first)
        assert result["status"] == "finished", result["reason"]
        assert result["rounds"][-1]["sites"] == [1, 3, 4, 5]
        reasons = {row["site"]: row["reason"] for row in result["absent"]}
        assert "left the consortium" in reasons[2]
        assert "joined the consortium after the job began" in reasons[6]

        log = [event.kind for event in read_events(two / "events.jsonl")]
        assert log[-1] == "disconnected", "the revoked site is cut off"
        assert "roster-installed" not in log
        assert two not in {site for site in sites if changed(site, before[site]) & ROSTER}
        for site in (one, three, four):
            found = changed(site, before[site])
            assert found >= {*ROSTER, "trust/rosters/000002.json"}
            left = {name for name in found - ROSTER - LOG if not name.startswith(OF_A_JOB)}
            assert left == {"trust/rosters/000002.json"}
        trial.stop(two)
        trial.sites.remove(two)

        second = trial.submit(job_text(rounds=1, protection="masking", min_sites=5, privacy=NOISE))
        result = trial.wait_for(second)
        assert result["status"] == "finished", result["reason"]
        assert result["rounds"][0]["sites"] == [1, 3, 4, 5, 6]

        before = {site: contents(site) for site in trial.sites}
        assert "the same sites" in issue(trial)
        fetched(trial, 3, 1, 3, 4, 5, 6)
        for site in trial.sites:
            assert changed(site, before[site]) - LOG == {*ROSTER, "trust/rosters/000003.json"}
        assert all(trial.process_id(site) == pid for site, pid in pids.items() if site != two), "nobody was restarted"

        trial.kill(trial.coordinator)  # so that every site needs its new certificate for a new connection
        trial.start(trial.coordinator)
        trial.wait_online(5)

    status = salus("consortium", "status", trial.folder / "consortium", "--fetched", trial.coordinator, "--json")
    known = {site["name"]: site["fetched"] for site in json.loads(status.stdout)["sites"]}
    assert known == dict.fromkeys(["Site 1", "Site 3", "Site 4", "Site 5", "Site 6"], 3)
    for job, serial in ((first, 1), (second, 2)):
        path = trial.coordinator / "transcripts" / f"{job}.jsonl"
        checked = salus("verify", path, "--kit", trial.folder / "kits" / "site-6.kit", "--json")
        assert checked.returncode == 0, checked.stderr
        assert json.loads(checked.stdout)["roster"]["serial"] == serial
