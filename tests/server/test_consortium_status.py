import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.cli import salus

from salus.client.config import init_site
from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, IdentityError
from salus.common.kit import Kit, read_kit, write_json
from salus.common.trust import install_kit
from salus.server.config import init_server
from salus.server.consortium import Consortium
from salus.server.consortium_status import status_of
from salus.server.fetched import Fetched, read_fetched, write_fetched

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def found(folder: Path, clock: ManualClock) -> Consortium:
    consortium = Consortium.create(folder / "consortium", "Test", clock)
    consortium.add(init_server(folder / "server", "Coordinator", "https://127.0.0.1:8443", "127.0.0.1"))
    for number in (1, 2, 3):
        consortium.add(init_site(folder / f"site-{number}", f"Site {number}"))
    return consortium


def test_status_says_what_the_next_roster_changes_and_who_has_fetched_the_newest(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    consortium = found(tmp_path, clock)
    before = status_of(consortium, {}, NOW)
    assert before["to_do"] == ["No roster has been issued yet: salus consortium issue."]
    assert (before["serial"], before["valid_until"]) == (0, None)
    assert {member["roster"] for member in (before["coordinator"], *before["sites"])} == {"not yet"}
    consortium.issue(tmp_path / "kits", days=365)
    issued = status_of(consortium, {}, NOW)
    assert issued["to_do"] == []
    assert issued["valid_until"] == (NOW + timedelta(days=365)).isoformat()
    assert [site["roster"] for site in issued["sites"]] == ["listed"] * 3
    assert issued["coordinator"]["url"] == "https://127.0.0.1:8443"

    consortium.remove("2")
    consortium.add(init_site(tmp_path / "again", "Site 3"), replace=True)
    consortium.add(init_site(tmp_path / "new", "New"))
    changed = status_of(consortium, {}, NOW)
    assert {site["name"]: site["roster"] for site in changed["sites"]} == {
        "Site 1": "listed", "Site 3": "new keys since", "New": "added since",
    }  # fmt: skip
    assert changed["removed"] == [{"site": 2, "name": "Site 2"}]
    assert any("takes effect after salus consortium issue" in sentence for sentence in changed["to_do"])

    consortium.issue(tmp_path / "kits", days=365)
    (tmp_path / "server" / "trust").mkdir()
    at = NOW.replace(hour=5)
    write_fetched(tmp_path / "server", {1: Fetched(site=1, serial=2, at=at), 3: Fetched(site=3, serial=1, at=at)})
    after = status_of(consortium, read_fetched(tmp_path / "server"), NOW)
    assert {site["name"]: site["fetched"] for site in after["sites"]} == {"Site 1": 2, "Site 3": 1, "New": None}
    assert after["to_do"] == ["Not all sites have fetched roster 2: Site 3."]
    late = status_of(consortium, {}, NOW + timedelta(days=340))
    assert any("certificates end on 2027-11-01" in sentence for sentence in late["to_do"])


def test_the_command_prints_members_and_json(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    found(tmp_path, clock).issue(tmp_path / "kits", days=365)
    shown = salus("consortium", "status", tmp_path / "consortium")
    assert shown.returncode == 0, shown.stderr
    assert all(text in shown.stdout for text in ("Site 3", "roster 1", "In words"))
    values = json.loads(salus("consortium", "status", tmp_path / "consortium", "--json").stdout)
    assert values["serial"] == 1
    assert len(values["words"].replace(" / ", " ").split()) == 16
    missing = salus("consortium", "status", tmp_path / "consortium", "--fetched", tmp_path / "none.json")
    assert missing.returncode == ConfigError.exit_code


def test_a_roster_is_renewed_when_it_is_due_and_not_before(tmp_path: Path) -> None:
    issued = ManualClock(datetime.now(UTC) - timedelta(days=70))
    consortium = found(tmp_path, issued)
    consortium.issue(tmp_path / "kits", days=90)
    roster = consortium.newest_roster()
    assert roster is not None
    assert not roster.due(roster.valid_from + timedelta(days=59))
    assert roster.due(roster.valid_from + timedelta(days=61))
    issue = ("consortium", "issue", tmp_path / "consortium", tmp_path / "kits", "--if-due")
    assert "Roster 2" in salus(*issue).stdout
    again = salus(*issue)
    assert again.returncode == 0, again.stderr
    assert "Roster 2 is valid until" in again.stdout
    assert "nothing to do" in again.stdout
    assert Consortium(tmp_path / "consortium", issued).state.serial == 2


def test_the_coordinators_kit_has_every_sites_kit_and_a_sites_kit_nothing_new(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    kits = found(tmp_path, clock).issue(tmp_path / "kits", days=365)
    coordinator = read_kit(kits[0])
    for number in (1, 2, 3):
        own = coordinator.for_site(number, f"Site {number}")
        assert own == read_kit(kits[number])
        assert "sites" not in json.loads(kits[number].read_bytes()), "an older Salus refuses unknown keys"
        assert own is not None
        install_kit(tmp_path / f"site-{number}", own, clock)
    assert coordinator.for_site(4, "Site 4") is None


def test_a_new_roster_with_an_old_certificate_is_refused(tmp_path: Path) -> None:
    """Who passes on kits could otherwise let a site's certificate run out."""
    clock = ManualClock(NOW)
    consortium = found(tmp_path, clock)
    old = read_kit(consortium.issue(tmp_path / "kits", days=30)[1])
    new = read_kit(consortium.issue(tmp_path / "kits", days=365)[1])
    mixed = Kit(**{**new.model_dump(), "certificate": old.certificate, "roster": new.roster})
    with pytest.raises(IdentityError, match="belongs to an older kit"):
        install_kit(tmp_path / "site-1", mixed, clock)
    install_kit(tmp_path / "site-1", new, clock)


def test_a_coordinators_kit_with_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    kit = read_kit(found(tmp_path / "a", clock).issue(tmp_path / "a" / "kits", days=30)[0])
    other = read_kit(found(tmp_path / "b", clock).issue(tmp_path / "b" / "kits", days=30)[0])
    with pytest.raises(IdentityError, match="not signed by the consortium's certificate authority"):
        install_kit(tmp_path / "a" / "server", kit.model_copy(update={"sites": other.sites}), clock)
    write_json(tmp_path / "kit", kit)
    assert read_kit(tmp_path / "kit") == kit
