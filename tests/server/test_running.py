"""Which roster a job runs with: the newest until a site was asked for a sum, and from then on always the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import tiny_job
from tests.server.test_transcripts import CONSORTIUM, roster_of

from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.roster import roster_hash, seal_roster
from salus.privacy.records.transcripts import ROSTER
from salus.server.checkpoints import Checkpoints
from salus.server.inviting import Cancelled
from salus.server.participants import Participants
from salus.server.running import Control, JobRunner
from salus.server.transcripts import Transcript

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
