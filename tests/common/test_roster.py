from datetime import UTC, datetime, timedelta

import pytest

from salus.common.clock import ManualClock
from salus.common.errors import IdentityError, RosterError
from salus.common.identity import Identity
from salus.common.roster import Roster, RosterCoordinator, RosterSite, open_roster, seal_roster

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def make(sites: int = 3) -> tuple[Roster, Identity]:
    roster = Roster(
        consortium="c",
        serial=1,
        valid_from=NOW,
        valid_until=NOW + timedelta(days=10),
        coordinator=RosterCoordinator(name="k", url="https://k:1", public_key=Identity.generate().public_key.hex()),
        sites=tuple(
            RosterSite(name=f"s{i}", public_key=Identity.generate().public_key.hex(), node_key=f"node {i}")
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
    with pytest.raises(RosterError, match="not on the roster"):
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
        Roster.model_validate_json(__import__("json").dumps(values))
