import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from salus.client.config import SiteFolder, init_site
from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, IdentityError, RosterError
from salus.common.kit import install_kit, installed_roster, read_kit, read_request, write_json
from salus.server.config import ServerFolder, init_server
from salus.server.consortium import Consortium

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CLOCK = ManualClock(NOW)


def found(folder: Path, sites: int = 2) -> tuple[Consortium, list[Path]]:
    consortium = Consortium.create(folder / "consortium", "Test", CLOCK)
    consortium.add(init_server(folder / "server", "Coordinator", "https://127.0.0.1:8443", "127.0.0.1"))
    for number in range(1, sites + 1):
        assert consortium.add(init_site(folder / f"site-{number}", f"Site {number}")) == number
    return consortium, consortium.issue(folder / "kits", days=10)


def test_members_join_with_keys_that_the_consortium_never_sees(tmp_path: Path) -> None:
    _, kits = found(tmp_path)
    for member, kit in zip(["server", "site-1", "site-2"], kits, strict=True):
        roster = install_kit(tmp_path / member, read_kit(kit), CLOCK)
        assert len(roster.sites) == 2
        for key in (tmp_path / member / "keys").glob("*.pem"):
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            secret = key.read_bytes()
            assert not any(
                secret in path.read_bytes() for path in (tmp_path / "consortium").rglob("*") if path.is_file()
            )
            assert secret not in kit.read_bytes()
    assert SiteFolder.open(tmp_path / "site-2", CLOCK).site_id == 2
    assert ServerFolder.open(tmp_path / "server", CLOCK).node_keys().keys() == {1, 2}
    assert ServerFolder.open(tmp_path / "server", CLOCK).tls()


def test_a_kit_for_another_site_or_from_another_consortium_is_refused(tmp_path: Path) -> None:
    _, kits = found(tmp_path / "a")
    init_site(tmp_path / "stranger", "Stranger")
    with pytest.raises(RosterError, match="not on the roster"):
        install_kit(tmp_path / "stranger", read_kit(kits[1]), CLOCK)
    install_kit(tmp_path / "a" / "site-1", read_kit(kits[1]), CLOCK)
    _, others = found(tmp_path / "b")
    with pytest.raises(IdentityError, match="another consortium"):
        install_kit(tmp_path / "a" / "site-1", read_kit(others[1]), CLOCK)


def test_a_changed_roster_is_refused(tmp_path: Path) -> None:
    _, kits = found(tmp_path)
    kit = read_kit(kits[1])
    forged = kit.roster.model_copy(update={"document": kit.roster.document.replace("Site 2", "Site X")})
    with pytest.raises(IdentityError, match="does not verify"):
        install_kit(tmp_path / "site-1", kit.model_copy(update={"roster": forged}), CLOCK)


def test_expired_papers_say_so(tmp_path: Path) -> None:
    _, kits = found(tmp_path)
    install_kit(tmp_path / "site-1", read_kit(kits[1]), CLOCK)
    late = ManualClock(NOW + timedelta(days=11))
    with pytest.raises(RosterError, match="ask the consortium"):
        SiteFolder.open(tmp_path / "site-1", late)


def test_asking_again_replaces_the_site_and_a_stolen_key_is_refused(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path)
    assert consortium.add(init_site(tmp_path / "again", "Site 1")) == 1
    request = init_site(tmp_path / "other", "Other")
    consortium.add(request)
    with pytest.raises(IdentityError, match="has this key already"):
        consortium.add(request.model_copy(update={"name": "Thief"}))


def test_members_that_have_not_joined_are_told_so(tmp_path: Path) -> None:
    init_site(tmp_path / "site", "S")
    with pytest.raises(ConfigError, match="not joined"):
        installed_roster(tmp_path / "site", CLOCK)
    with pytest.raises(ConfigError, match="not a site's folder"):
        SiteFolder.open(tmp_path / "nothing", CLOCK)
    with pytest.raises(ConfigError, match="https"):
        init_server(tmp_path / "server", "C", "http://x:1", "127.0.0.1")


def test_files_that_are_not_papers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "[]", "{", '{"role":"king"}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_request(path)
        with pytest.raises(ConfigError):
            read_kit(path)
    write_json(path, init_site(tmp_path / "s", "S"))
    assert read_request(path).name == "S"


def test_a_site_never_gets_a_server_certificate(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path)
    greedy = init_site(tmp_path / "greedy", "Greedy").model_copy(update={"url": "https://127.0.0.1:8443"})
    with pytest.raises(ConfigError, match="no URL in a site's request"):
        consortium.add(greedy)


def test_an_older_roster_is_refused(tmp_path: Path) -> None:
    consortium, old = found(tmp_path)
    text = old[1].read_bytes()
    new = consortium.issue(tmp_path / "kits", days=10)
    install_kit(tmp_path / "site-1", read_kit(new[1]), CLOCK)
    old[1].write_bytes(text)
    with pytest.raises(RosterError, match="serial 1, but 2"):
        install_kit(tmp_path / "site-1", read_kit(old[1]), CLOCK)
