"""The consortium changes while a job runs: hospitals join and leave, and what was signed before can still be checked."""

import json
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.cli import salus
from tests.processes import Forked

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.trial import Trial, empty

POLICY = "allow_without_noise = true\n"
NEXT = POLICY + "[cohort_epochs]\ntoy = 1\n"


def give_data(site: Path) -> None:
    data = write_npz(site / "toy.npz", seed=int(site.name[5:]), images=60)
    open_catalogue(site).add("toy", "medmnist", data, SourceOptions())


def masked(rounds: int, epoch: int = 0) -> str:
    text = job_text(rounds=rounds, model="cnn", protection="masking", min_sites=5)
    text = text.replace("join_timeout_s = 60.0", "join_timeout_s = 900.0")
    return text.replace("min_sites", f"cohort_epoch = {epoch}\nmin_sites", 1)


@pytest.mark.slow  # `test_joining` does it every day without a restart
def test_members_join_and_leave_while_a_job_runs_and_its_transcript_is_checked_afterwards(tmp_path: Path) -> None:
    empty(tmp_path / "t")
    trial = Trial(tmp_path / "t", [f"Site {number}" for number in range(1, 6)], policy=POLICY, launcher=Forked)
    for site in trial.sites:
        give_data(site)
    with trial:
        trial.start_all()
        first = trial.submit(masked(5))
        trial.wait_for_round(first, 1)
        trial.kill(trial.coordinator)  # held here while people exchange files
        sixth = trial.admit("Site 6")
        give_data(sixth)
        trial.issue()
        trial.restart()
        result = trial.wait_for(first)
        assert result["status"] == "finished", result["reason"]
        assert [record["sites"] for record in result["rounds"]] == [[1, 2, 3, 4, 5]] * 5
        told = [event for event in trial.admin.get(f"/jobs/{first}/events") if event["kind"] == "not-asked"]
        assert {event["fields"]["site"] for event in told if "joined the consortium" in event["fields"]["text"]} == {6}
        assert [row["site"] for row in result["absent"]] == [6]
        assert "joined the consortium after the job began" in Path(result["report"]).read_text()

        trial.remove(trial.sites[1])
        trial.issue()
        for site in trial.sites:
            (site / "policy.toml").write_text(NEXT)
        trial.restart()
        trial.wait_online(5)
        second = trial.submit(masked(2, epoch=1))
        result = trial.wait_for(second)
        assert result["status"] == "finished", result["reason"]
        assert [record["sites"] for record in result["rounds"]] == [[1, 3, 4, 5, 6]] * 2, "numbers are never reused"

    kit = trial.folder / "kits" / "site-6.kit"  # of a member that was not there when the first job began
    for job, serial, sites in ((first, 1, 5), (second, 3, 5)):
        path = trial.coordinator / "transcripts" / f"{job}.jsonl"
        checked = salus("verify", path, "--kit", kit, "--json")
        assert checked.returncode == 0, checked.stderr
        roster = json.loads(checked.stdout)["roster"]
        assert (roster["serial"], len(roster["sites"])) == (serial, sites)
