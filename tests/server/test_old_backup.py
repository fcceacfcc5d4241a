"""What the restore of an old backup means for the sites, which have consented to later sums than the backup knows of."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job
from tests.server.test_rounds import World

from salus.common.clock import ManualClock
from salus.common.errors import RoundError
from salus.privacy.protocol.contributors import Consent
from salus.server.backup import backup
from salus.server.checkpoints import Checkpoints
from salus.server.participants import scope_of
from salus.server.restored import FILE, restored
from salus.server.restoring import restore
from salus.server.transcripts import Transcript, verify_entries

TINY = tiny_job(rounds=3, min_sites=3, protection="masking")
JOB = TINY.model_copy(update={"job": TINY.job.model_copy(update={"join_timeout_s": 20.0})})
SITES = 6  # one more than a masked sum needs


def lost(world: World, folder: Path, *, after_round: int) -> np.ndarray:
    """Run the job to its end with a backup after one of its rounds; then put the backup in the place of the coordinator."""
    home, clock = folder / "c", ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    (home / "server.toml").write_text("port = 8443\n")
    transcript = home / "transcripts" / f"{world.job_id}.jsonl"
    world.transcript = Transcript(transcript)
    save = world.store.save_round

    def saved(job_id: str, round_: int, *arguments: object, **keywords: object) -> Path:
        path = save(job_id, round_, *arguments, **keywords)  # type: ignore[arg-type]
        if round_ == after_round:
            backup(home, folder / "b", clock)
        return path

    world.store.save_round = saved  # type: ignore[method-assign, assignment]
    world.store.begin(world.job_id, "")
    if after_round == 0:
        backup(home, folder / "b", clock)
    final = world.run()
    restore(folder / "r", folder / "b")
    world.store = Checkpoints(folder / "r")
    world.transcript = Transcript(folder / "r" / "transcripts" / f"{world.job_id}.jsonl")
    world.events.clear()
    world.sites.asked.clear()
    return final


def refusals(world: World) -> list[str]:
    return [str(event.fields["text"]) for event in world.events if event.kind == "left-out"]


def consents(world: World) -> Mapping[int, list[Consent]]:
    return {number: site._store.consents(scope_of(JOB)) for number, site in world.sites.sites.items()}


def test_the_job_goes_on_from_the_backup_with_attempts_that_no_site_knows(tmp_path: Path) -> None:
    world = World(tmp_path, JOB, sites=SITES)
    final = lost(world, tmp_path, after_round=1)
    before = {number: len(found) for number, found in consents(world).items()}
    again = world.run()
    assert np.allclose(again, final, atol=1e-5), "without noise the rounds that are made again are the same"
    assert refusals(world) == []
    first = restored(tmp_path / "r").first_attempt
    assert {(round_, n) for kind, round_, n in world.sites.asked if kind == "train"} == {(2, first), (3, first)}
    assert {number: len(found) for number, found in consents(world).items()} == {n: k + 3 for n, k in before.items()}
    verify_entries(tmp_path / "r" / "transcripts" / f"{world.job_id}.jsonl", world.keys)


def test_a_site_refuses_a_session_that_it_knows_and_the_next_attempt_succeeds(tmp_path: Path) -> None:
    """As after the files were copied back by hand: then the numbers of attempts begin again where the copy was made."""
    world = World(tmp_path, JOB, sites=SITES)
    final = lost(world, tmp_path, after_round=1)
    (tmp_path / "r" / FILE).unlink()
    world.store = Checkpoints(tmp_path / "r")
    again = world.run()
    assert np.allclose(again, final, atol=1e-5)
    assert all("opened" in text for text in refusals(world))
    assert {event.fields["site"] for event in world.events if event.kind == "left-out"} == set(range(1, SITES + 1))
    assert {attempt for kind, _, attempt in world.sites.asked if kind == "train"} == {0, 1}


def test_a_backup_from_before_the_first_sum_cannot_choose_other_sites_now(tmp_path: Path) -> None:
    world = World(tmp_path, JOB, sites=SITES)
    final = lost(world, tmp_path, after_round=0)
    before = consents(world)
    away = world.sites.sites.pop(SITES)
    with pytest.raises(RoundError, match="failed in"):
        world.run()
    assert any("other sites than in an earlier sum over the same data" in text for text in refusals(world))
    assert world.store.records(world.job_id) == []
    world.sites.sites[SITES] = away
    assert consents(world) == before, "nobody has agreed to open anything"
    restore(tmp_path / "again", tmp_path / "b")  # the first one has chosen the wrong cohort for good
    world.store = Checkpoints(tmp_path / "again")
    world.transcript = Transcript(tmp_path / "again" / "transcripts" / f"{world.job_id}.jsonl")
    world.events.clear()
    assert np.allclose(world.run(), final, atol=1e-5)
    assert refusals(world) == []


@pytest.mark.slow
def test_rounds_with_noise_that_are_made_again_are_charged_again(tmp_path: Path) -> None:
    noised = tiny_job(rounds=3, min_sites=3, protection="masking", privacy="")
    job = noised.model_copy(update={"job": noised.job.model_copy(update={"join_timeout_s": 20.0})})
    world = World(tmp_path, job, sites=SITES)
    lost(world, tmp_path, after_round=1)
    with pytest.raises(RoundError, match="failed in"):
        world.run()
    assert any("reserved privacy is used up" in text for text in refusals(world))
