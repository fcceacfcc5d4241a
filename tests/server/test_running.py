"""Which roster a job runs with: the newest until a site was asked for a sum, and from then on always the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import tiny_job
from tests.server.test_transcripts import CONSORTIUM, roster_of

from salus.common.errors import ProtectionError
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.roster import roster_hash, seal_roster
from salus.privacy.records.transcripts import ROSTER
from salus.server.checkpoints import Checkpoints
from salus.server.inviting import Cancelled
from salus.server.participants import Participants
from salus.server.running import Control, JobRunner
from salus.server.transcripts import Transcript, began_with

OLD, NEW = (seal_roster(roster_of({1: bytes(32)}, serial=serial), CONSORTIUM) for serial in (1, 2))
STOP = Control(must_end=lambda: True, must_pause=lambda: True, wish=lambda: "")


class Runner(JobRunner):
    """Notes the roster with which a job begins, and stops."""

    def __init__(self, folder: Path, checkpoints: Checkpoints) -> None:
        trust: Any = SimpleNamespace(digest=roster_hash(NEW))
        grid = SimpleNamespace(close=lambda: None)
        found: Any = SimpleNamespace(folder=folder, trust=trust)
        link: Any = SimpleNamespace(begin_run=lambda: grid)
        nothing: Any = None
        super().__init__(found, link, checkpoints, nothing, nothing, nothing, nothing, nothing)
        self.began: list[str] = []

    def participants(self, roster: str) -> Participants:
        self.began.append(roster)
        raise Cancelled("The test has seen enough.", remedy="")


@pytest.mark.parametrize(("asked", "expected"), [(False, NEW), (True, OLD)])
def test_a_job_whose_records_are_older_than_its_transcript_keeps_the_transcripts_roster(
    tmp_path: Path, asked: bool, expected: Any
) -> None:
    """Found by a restore: the records knew of no attempt, so the newest roster became a second one of the same transcript."""
    checkpoints = Checkpoints(tmp_path)
    job_id = checkpoints.submit(seal_job(tiny_job(rounds=5), Identity.generate()), "tiny")
    transcript = Transcript(tmp_path / "transcripts" / f"{job_id}.jsonl")
    transcript(ROSTER, signed=OLD.model_dump(mode="json"))
    if asked:
        transcript("session", round=0)
    runner = Runner(tmp_path, checkpoints)
    runner.run(checkpoints.job(job_id), STOP)
    assert runner.began == [roster_hash(expected)]
    assert runner._replaced(job_id, roster_hash(OLD)) != asked
    checkpoints.close()


@pytest.mark.parametrize(
    ("end", "expected"), [(b'{"kind":"up', ""), (b"\xff\xfe", ""), (b"\n", "damaged"), (b'{"kind":1}\n', "damaged")]
)
def test_a_loss_of_power_in_the_middle_of_an_entry_fails_no_job_and_damage_is_named(
    tmp_path: Path, end: bytes, expected: str
) -> None:
    path = tmp_path / "transcripts" / "tiny-0001.jsonl"
    transcript = Transcript(path)
    transcript(ROSTER, signed=OLD.model_dump(mode="json"))
    transcript("session", round=0)
    with path.open("ab") as file:
        file.write(end)
    if expected:
        with pytest.raises(ProtectionError, match=f"its transcript is {expected}.*from a backup"):
            began_with(path)
    else:
        assert began_with(path) == roster_hash(OLD)


def test_a_transcript_that_begins_with_two_rosters_ends_the_job(tmp_path: Path) -> None:
    path = tmp_path / "transcripts" / "tiny-0001.jsonl"
    transcript = Transcript(path)
    for roster in (OLD, NEW):
        transcript(ROSTER, signed=roster.model_dump(mode="json"))
    transcript("session", round=0)
    with pytest.raises(ProtectionError, match="several rosters"):
        began_with(path)
