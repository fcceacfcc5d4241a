"""What must hold after a fault: of jobs, transcripts, ledgers and logs."""

import json
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from tests.cli import salus

from salus.client.config import open_ledger
from salus.common.clock import SystemClock
from salus.common.events import Event, read_events
from salus.server.config import ServerFolder
from salus.server.transcripts import verify_file
from salus.simulations.trial import Trial


def found(member: Path, kind: str, job: str = "") -> list[Event]:
    """Return a member's events of a kind, of one job if it is named, the oldest first."""
    log = member / "events.jsonl"
    every = read_events(log) if log.exists() else []
    return [event for event in every if event.kind == kind and (not job or event.fields.get("job") == job)]


def check_job(trial: Trial, job: str, rounds: int, again: Collection[int] = ()) -> None:
    """Check that a job finished with each round once, and that its transcript holds.

    Args:
        again: rounds that may have been summed again, because the first sum was lost before it was stored.
    """
    result = trial.wait_for(job)
    said = [event.fields["text"] for event in found(trial.coordinator, "left-out", job)]
    assert result["status"] == "finished", (result["reason"], said[-5:])
    assert [record["round"] for record in result["rounds"]] == list(range(1, rounds + 1))
    check_transcript(trial, job, rounds, again)


def check_transcript(trial: Trial, job: str, rounds: int, again: Collection[int] = ()) -> None:
    """Check that the transcript verifies, that each round and the evaluation were summed once, and nobody consented twice."""
    path = trial.coordinator / "transcripts" / f"{job}.jsonl"
    key = ServerFolder.open(trial.coordinator, SystemClock()).trust.consortium_key
    verified = verify_file(path, key).verified
    consented: set[int] = set()
    for entry in map(json.loads, path.read_text().splitlines()):
        if entry["kind"] == "session":
            consented = set()
        elif entry["kind"] == "consent":
            assert entry["site"] not in consented, "a site consented twice in one session"
            consented.add(entry["site"])
    assert consented, "the last session was given up: after the evaluation, none may begin"
    summed = [line["round"] for line in verified.sums]
    assert sorted({*summed}) == list(range(1, rounds + 2))
    assert {number for number in summed if summed.count(number) > 1} <= {*again}, "a round was summed twice"
    assert salus("verify", path, "--kit", trial.folder / "kits" / "site-1.kit").returncode == 0


def check_ledgers(trial: Trial) -> None:
    """Check every site's ledger, and that its entries are in the order of their times."""
    for site in trial.sites:
        ledger = open_ledger(site, SystemClock())
        ledger.verify()
        assert salus("ledger", "verify", site).returncode == 0
        times = [entry.at for entry, _ in ledger.entries()]
        assert times == sorted(times), site.name


def check_logs(trial: Trial) -> None:
    """Check that each event in the logs is not before the one above it."""
    for member in (trial.coordinator, *trial.sites):
        times = [event.at for event in read_events(member / "events.jsonl")]
        assert times, member.name
        assert all(one <= other for one, other in pairwise(times)), member.name
