import json
from datetime import UTC, datetime, timedelta

import pytest

from salus.common.clock import ManualClock
from salus.common.errors import IdentityError, RosterError
from salus.common.identity import Identity
from salus.common.roster import Roster, RosterCoordinator, RosterSite, open_roster, read_roster, seal_roster

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def make(sites: int = 3) -> tuple[Roster, Identity]:
    roster = Roster(
        consortium="c",
        serial=1,
        valid_from=NOW,
        valid_until=NOW + timedelta(days=10),
        authority_sha256="0" * 64,
        coordinator=RosterCoordinator(name="k", url="https://k:1", public_key=Identity.generate().public_key.hex()),
        sites=tuple(
            RosterSite(id=i + 1, name=f"s{i}", public_key=Identity.generate().public_key.hex(), node_key=f"node {i}")
            for i in range(sites)
        ),
    )
    return roster, Identity.generate()


def test_round_trip_and_ids() -> None:
    roster, consortium = make()
    opened = open_roster(seal_roster(roster, consortium), consortium.public_key, ManualClock(NOW))
    assert opened == roster
    assert opened.site_ids() == (1, 2, 3)
    assert opened.id_of(bytes.fromhex(roster.sites[1].public_key)) == 2
    with pytest.raises(RosterError):
        opened.site(4)
    with pytest.raises(RosterError):
        opened.site(0)
    with pytest.raises(RosterError, match="not on roster 1"):
        opened.id_of(b"\0" * 32)


@pytest.mark.parametrize("offset", [timedelta(seconds=-1), timedelta(days=11)])
def test_outside_its_dates_a_roster_is_refused(offset: timedelta) -> None:
    roster, consortium = make()
    with pytest.raises(RosterError, match="clock says"):
        open_roster(seal_roster(roster, consortium), consortium.public_key, ManualClock(NOW + offset))


def test_another_signer_is_refused() -> None:
    roster, consortium = make()
    with pytest.raises(IdentityError):
        open_roster(seal_roster(roster, Identity.generate()), consortium.public_key, ManualClock(NOW))


def test_a_key_twice_is_refused() -> None:
    roster, _ = make()
    values = roster.model_dump(mode="json")
    values["sites"][1]["public_key"] = values["sites"][0]["public_key"]
    with pytest.raises(ValueError, match="at most once"):
        Roster.model_validate_json(json.dumps(values))


def test_ids_may_have_gaps_and_are_never_positions() -> None:
    roster, _ = make(3)
    gap = roster.model_copy(update={"sites": (roster.sites[0], roster.sites[2])})
    assert gap.site_ids() == (1, 3)
    assert gap.site(3).name == "s2"
    assert gap.id_of(bytes.fromhex(roster.sites[2].public_key)) == 3
    assert gap.keys().keys() == gap.names().keys() == {1, 3}
    with pytest.raises(RosterError):
        gap.site(2)


@pytest.mark.parametrize("ids", [(2, 1), (1, 1), (0, 1)])
def test_ids_ascend_and_are_given_once(ids: tuple[int, int]) -> None:
    values = make(2)[0].model_dump(mode="json")
    for site, number in zip(values["sites"], ids, strict=True):
        site["id"] = number
    with pytest.raises(ValueError, match="id"):
        Roster.model_validate_json(json.dumps(values))


def test_names_that_look_alike_but_for_case_or_width_count_as_one() -> None:
    values = make(2)[0].model_dump(mode="json")
    values["sites"][0]["name"], values["sites"][1]["name"] = "St. Mary", "ST. MARY"
    with pytest.raises(ValueError, match="at most once"):
        Roster.model_validate_json(json.dumps(values))


def test_the_operator_is_warned_a_month_before_the_roster_ends() -> None:
    roster = make()[0].model_copy(update={"valid_until": NOW + timedelta(days=60)})
    assert roster.warning(NOW) == ""
    assert "in 29 days" in roster.warning(NOW + timedelta(days=30, hours=1))


def test_an_old_roster_can_still_be_read_for_what_was_done_in_its_time() -> None:
    roster, consortium = make()
    assert read_roster(seal_roster(roster, consortium), consortium.public_key) == roster
    with pytest.raises(IdentityError):
        read_roster(seal_roster(roster, Identity.generate()), consortium.public_key)
