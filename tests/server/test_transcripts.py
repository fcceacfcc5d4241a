"""Transcripts on disk: they name their roster, survive a kill in the middle of a line, and are checked in any year."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.builders import tiny_job
from tests.cli import salus
from tests.privacy.masking.world import World
from tests.server.test_rounds import World as Rounds

from salus.client.policy import Policy
from salus.common.errors import ConfigError, IdentityError, ProtectionError
from salus.common.identity import Identity
from salus.common.roster import Roster, RosterCoordinator, RosterSite, seal_roster
from salus.privacy.records.transcripts import ROSTER
from salus.server.transcripts import Transcript, opened, verify_file

CONSORTIUM = Identity.generate()


def roster_of(keys: dict[int, bytes], *, serial: int = 1) -> Roster:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    return Roster(
        consortium="c",
        serial=serial,
        valid_from=long_ago,
        valid_until=long_ago + timedelta(days=30),
        authority_sha256="0" * 64,
        coordinator=RosterCoordinator(name="k", url="https://k:1", public_key="f" * 64),
        sites=tuple(
            RosterSite(id=site, name=f"Site {site}", public_key=key.hex(), node_key=f"node {site}")
            for site, key in keys.items()
        ),
    )


def write(path: Path, world: World, roster: Roster, signer: Identity = CONSORTIUM) -> Path:
    transcript = Transcript(path)
    transcript(ROSTER, signed=seal_roster(roster, signer).model_dump(mode="json"))
    for entry in world.record:
        transcript(**entry)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def world() -> World:
    made = World(6)
    made.run()
    document = json.loads(str(made.record[0]["document"]))
    assert document["aggregation"]["protection"] in ("masking", "none")
    return made


def test_an_old_transcript_is_checked_with_the_roster_that_it_names(tmp_path: Path, world: World) -> None:
    path = write(tmp_path / "t.jsonl", world, roster_of(dict(world.keys), serial=7))
    checked = verify_file(path, CONSORTIUM.public_key)
    assert checked.roster.serial == 7
    assert len(checked.verified.sums) == 1
    assert checked.unproven


def test_the_roster_must_be_signed_by_the_consortium_and_be_the_sites_own(tmp_path: Path, world: World) -> None:
    forged = write(tmp_path / "forged.jsonl", world, roster_of(dict(world.keys)), Identity.generate())
    with pytest.raises(IdentityError):
        verify_file(forged, CONSORTIUM.public_key)
    other = write(tmp_path / "other.jsonl", world, roster_of({**world.keys, 1: Identity.generate().public_key}))
    with pytest.raises(ProtectionError, match="site 1"):
        verify_file(other, CONSORTIUM.public_key)
    gap = write(tmp_path / "gap.jsonl", world, roster_of({site + 1: key for site, key in world.keys.items()}))
    with pytest.raises(ProtectionError, match="session's roster"):
        verify_file(gap, CONSORTIUM.public_key)


def test_a_resumed_job_names_its_roster_again_and_two_rosters_are_refused(tmp_path: Path, world: World) -> None:
    path = write(tmp_path / "t.jsonl", world, roster_of(dict(world.keys)))
    first = json.loads(path.read_bytes().splitlines()[1])
    Transcript(path)(ROSTER, signed=first["signed"])
    assert verify_file(path, CONSORTIUM.public_key).verified.sums
    Transcript(path)(
        ROSTER, signed=seal_roster(roster_of(dict(world.keys), serial=2), CONSORTIUM).model_dump(mode="json")
    )
    with pytest.raises(ProtectionError, match="several rosters"):
        verify_file(path, CONSORTIUM.public_key)


def test_a_line_that_a_killed_coordinator_did_not_finish_is_dropped(tmp_path: Path, world: World) -> None:
    path = write(tmp_path / "t.jsonl", world, roster_of(dict(world.keys)))
    with path.open("ab") as file:
        file.write(b'{"kind":"sess')
    Transcript(path)("job", document=world.record[0]["document"])
    assert verify_file(path, CONSORTIUM.public_key).verified.sums
    assert b'"sess{' not in path.read_bytes()


@pytest.mark.parametrize("text", ["", "[]\n", '{"kind":7}\n', '{"kind":"job"}\n', '{"kind":"roster"}\n'])
def test_other_files_are_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(ProtectionError):
        verify_file(tmp_path / "t", CONSORTIUM.public_key)
    (tmp_path / "t").write_text("nonsense")
    with pytest.raises(ConfigError, match="Expected a transcript"):
        verify_file(tmp_path / "t", CONSORTIUM.public_key)


def test_a_job_without_protection_has_nothing_to_verify(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t")
    keys = {1: Identity.generate().public_key}
    transcript(ROSTER, signed=seal_roster(roster_of(keys), CONSORTIUM).model_dump(mode="json"))
    transcript("job", document=tiny_job(protection="none").canonical_bytes().decode())
    with pytest.raises(ProtectionError, match="cannot be verified"):
        verify_file(tmp_path / "t", CONSORTIUM.public_key)


def test_the_transcript_of_an_encrypted_job_holds_and_says_what_it_cannot_show(tmp_path: Path) -> None:
    """The real way: rounds over sites in this process, with the coordinator's own record."""
    job = tiny_job(rounds=1, min_sites=5, protection='encryption"\nkey_holder = 2\nstrategy = "fedavg')
    rounds = Rounds(tmp_path / "rounds", job, sites=5)
    for number in rounds.keys:
        rules = Policy(allow_without_noise=True, key_holders=(2,))
        rounds.sites.sites[number]._policy = lambda rules=rules: rules  # type: ignore[misc]
    path = tmp_path / "t.jsonl"
    Transcript(path)(ROSTER, signed=seal_roster(roster_of(dict(rounds.keys)), CONSORTIUM).model_dump(mode="json"))
    rounds.transcript = Transcript(path)
    rounds.run()
    checked = verify_file(path, CONSORTIUM.public_key)
    assert [line["kind"] for line in checked.verified.sums] == ["train", "evaluate"]
    assert all(line["sites"] == [1, 2, 3, 4, 5] for line in checked.verified.sums)
    assert any("decryption is not signed" in sentence for sentence in checked.unproven)
    entries = path.read_text().splitlines()
    place = next(number for number, line in enumerate(entries) if '"kind":"uploaded"' in line)
    (tmp_path / "cut.jsonl").write_text("\n".join([*entries[:place], *entries[place + 1 :]]) + "\n")
    with pytest.raises(ProtectionError):
        verify_file(tmp_path / "cut.jsonl", CONSORTIUM.public_key)


def test_a_transcript_without_a_finished_sum_is_not_called_valid(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say "0 sums, all permitted" with exit code 0."""
    whole = write(tmp_path / "t.jsonl", world, roster_of(dict(world.keys)))
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "begun.jsonl").write_text("".join(lines[:3]))
    kit = SimpleNamespace(consortium_key=CONSORTIUM.public_key.hex())
    monkeypatch.setattr("salus.common.kit.read_kit", lambda path: kit)
    assert salus("verify", whole, "--kit", "k").returncode == 0
    begun = salus("verify", tmp_path / "begun.jsonl", "--kit", "k")
    assert begun.returncode == 41
    assert "no finished sum" in begun.stderr


def test_a_transcript_is_begun_anew_only_while_it_has_no_session(tmp_path: Path) -> None:
    path = tmp_path / "job.jsonl"
    opened(path, attempted=False)("roster", signed={"old": 1})
    opened(path, attempted=False)("roster", signed={"new": 1})
    assert path.read_text().count('"kind":"roster"') == 1
    assert "new" in path.read_text()
    Transcript(path)("session", round=1)
    before = path.read_bytes()
    opened(path, attempted=False)  # the records were restored from an older backup
    assert path.read_bytes() == before
    opened(path, attempted=True)
    assert path.read_bytes() == before
