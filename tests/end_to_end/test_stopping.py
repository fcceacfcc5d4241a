"""A running job is paused, drained and aborted over real daemons, and nothing is left behind."""

from pathlib import Path

import pytest
from tests.builders import job_text

from salus.client.config import SiteFolder, open_ledger
from salus.client.ledger.entries import Close, Commit, Reserve
from salus.common.clock import SystemClock
from salus.common.errors import SalusError
from salus.common.events import read_events
from salus.simulations.trial import Trial

NOISE = 'noise = "local"\nepsilon = 3.0\npatients_per_site = 30'


def post(federation: Trial, job: str, what: str, **query: bool) -> dict[str, object]:
    return dict(federation.admin.post(f"/jobs/{job}/{what}", **query))


def test_a_job_is_drained_after_its_round_paused_in_the_middle_and_resumed(federation: Trial) -> None:
    job = federation.submit(job_text(rounds=400, model="cnn"))
    federation.wait_for_round(job, 1)
    assert post(federation, job, "pause", after_round=True) == {"runs": True}
    drained = federation.wait_for(job)
    assert drained["status"] == "paused"
    kinds = [event["kind"] for event in federation.admin.get(f"/jobs/{job}/events")]
    assert kinds[-2:] == ["round", "job-ended"], "the round in progress was completed, and no other one begun"
    federation.admin.post(f"/jobs/{job}/resume")
    federation.wait_for_round(job, len(drained["rounds"]) + 1)
    post(federation, job, "pause")
    paused = federation.wait_for(job)
    assert paused["status"] == "paused"
    assert len(paused["rounds"]) < 400
    federation.admin.post(f"/jobs/{job}/abort")
    assert federation.admin.get(f"/jobs/{job}")["status"] == "aborted"


def test_an_aborted_job_leaves_nothing_and_gives_back_what_was_never_sent(federation: Trial) -> None:
    """One site is offline, and is told when it comes back."""
    away = federation.sites[4]
    text = job_text(rounds=300, dataset="noised", protection="masking", privacy=NOISE, min_sites=3)
    job = federation.submit(text)
    federation.wait_for_round(job, 1)
    federation.stop(away)
    assert post(federation, job, "abort")["runs"]
    assert federation.wait_for(job)["status"] == "aborted"
    assert not (federation.coordinator / "models" / job).exists()
    assert (federation.coordinator / "transcripts" / f"{job}.jsonl").exists(), "it shows what the sites sent"
    told(federation, federation.sites[:4], job)
    assert not isinstance(entries(away, job)[-1], Close)
    federation.start(away)
    told(federation, [away], job)
    for site in federation.sites:
        first, *sent, last = entries(site, job)
        assert isinstance(first, Reserve)
        assert all(isinstance(entry, Commit) for entry in sent)
        assert len(sent) >= 1
        assert isinstance(last, Close)
        assert sum(r.count for r in last.refunded) == sum(r.count for r in first.releases) - len(sent)
        assert open_ledger(site, SystemClock()).verify()
        assert not [place for place in (site / "states").glob("*") if place.name.startswith(job)]
    federation._wait(lambda: not list((federation.coordinator / "farewells").iterdir()) or None, "no farewell left", 60)
    for what in ("resume", "abort"):
        with pytest.raises(SalusError, match="aborted"):
            federation.admin.post(f"/jobs/{job}/{what}")


def told(federation: Trial, sites: list[Path], job: str) -> None:
    def everybody() -> bool | None:
        events = [event for site in sites for event in read_events(site / "events.jsonl")]
        return sum(e.kind == "job-aborted" and e.fields["job"] == job for e in events) == len(sites) or None

    federation._wait(everybody, "the sites to be told", 120)


def entries(site: Path, job: str) -> list[Reserve | Commit | Close]:
    assert SiteFolder.open(site, SystemClock()).site_id
    found = [entry for entry, _ in open_ledger(site, SystemClock()).entries() if entry.job.startswith(f"{job}/")]
    assert found
    return found
