from datetime import UTC, datetime, timedelta

from tests.builders import tiny_job

from salus.common.identity import Identity
from salus.common.roster import Roster, RosterCoordinator, RosterSite
from salus.server.participants import OFFLINE, participants

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SITES = {
    number: RosterSite(
        id=number, name=f"Site {number}", public_key=Identity.generate().public_key.hex(), node_key=f"node {number}"
    )
    for number in range(1, 7)
}


def roster(*sites: RosterSite) -> Roster:
    return Roster(
        consortium="c",
        serial=1,
        valid_from=NOW,
        valid_until=NOW + timedelta(days=9),
        authority_sha256="0" * 64,
        coordinator=RosterCoordinator(name="k", url="https://k:1", public_key="f" * 64),
        sites=sites,
    )


def test_a_running_job_keeps_its_members_and_says_of_the_others_why() -> None:
    began = roster(*(SITES[number] for number in (1, 2, 3, 4)))
    moved = SITES[3].model_copy(update={"public_key": "a" * 64})
    renamed = SITES[1].model_copy(update={"name": "Another name"})
    who = participants(began, lambda: roster(renamed, SITES[2], moved, SITES[6]), "d" * 64)
    assert set(who.keys) == {1, 2, 3, 4}
    assert who.keys[3].hex() == SITES[3].public_key, "signatures of this job are checked with its own keys"
    assert who.roster == "d" * 64
    assert who.present({1: 10, 2: 20, 3: 30, 6: 60, 9: 90}) == {1: 10, 2: 20}
    absent = who.absent(tiny_job(), {1}, ())
    assert list(absent) == [2, 3, 4, 6]
    assert absent[2] == OFFLINE
    assert "new keys" in absent[3]
    assert "left the consortium" in absent[4]
    assert "joined the consortium" in absent[6]


def test_a_new_node_key_alone_is_a_new_key() -> None:
    began = roster(SITES[1], SITES[2])
    who = participants(began, lambda: roster(SITES[1], SITES[2].model_copy(update={"node_key": "other"})))
    assert who.present({1: 1, 2: 2}) == {1: 1}


def test_who_is_not_in_the_cohort_is_told_apart_from_who_is_offline() -> None:
    whole = roster(SITES[1], SITES[2], SITES[3])
    absent = participants(whole, lambda: whole).absent(tiny_job(), {1, 3}, (1, 2))
    assert absent[2] == OFFLINE
    assert "not in the cohort of toy in epoch 0" in absent[3]
    assert set(absent) == {2, 3}


def test_a_job_sees_the_newest_roster_and_who_has_not_fetched_it() -> None:
    whole = roster(*(SITES[number] for number in (1, 2, 3)))
    newest = [whole]
    lacking: dict[int, str] = {}
    who = participants(whole, lambda: newest[0], "d" * 64, lambda digest: lacking if digest == "d" * 64 else {})
    nodes = {1: 10, 2: 20, 3: 30}
    assert who.present(nodes) == nodes
    newest[0] = roster(SITES[1], SITES[3])
    assert who.present(nodes) == {1: 10, 3: 30}, "a member that is removed is cut off while the job runs"
    lacking[3] = "has not fetched it"
    assert who.present(nodes) == {1: 10}
    assert set(who.absent(tiny_job(), nodes, ())) == {2, 3}
