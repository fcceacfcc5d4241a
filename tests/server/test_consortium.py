import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from salus.client.config import SiteFolder, init_site
from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, IdentityError, RosterError
from salus.common.identity import fingerprint
from salus.common.kit import Kit, MemberRequest, read_kit, read_request, write_json
from salus.common.trust import Trust, install_kit
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
    with pytest.raises(RosterError, match="not on roster 1"):
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
    with pytest.raises(RosterError, match="ask the consortium for a new kit"):
        SiteFolder.open(tmp_path / "site-1", late)


def test_a_known_name_is_replaced_only_when_told_to_and_both_fingerprints_are_shown(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path)
    before = consortium.state
    thief = init_site(tmp_path / "again", "SITE 1")
    old = consortium.state.sites[0].request
    with pytest.raises(IdentityError, match="--replace") as refused:
        consortium.add(thief)
    assert print_of(old) in str(refused.value)
    assert print_of(thief) in str(refused.value)
    assert consortium.state == before
    assert consortium.add(thief, replace=True) == 1
    assert consortium.add(thief) == 1, "the same request again changes nothing"


def test_a_request_with_the_role_of_the_coordinator_does_not_replace_it(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path)
    thief = init_server(tmp_path / "thief", "Coordinator", "https://127.0.0.1:9", "127.0.0.1")
    with pytest.raises(IdentityError, match="coordinator is a member already"):
        consortium.add(thief)
    assert consortium.add(thief, replace=True) == 0


def test_one_key_is_one_member(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path)
    request = init_site(tmp_path / "other", "Other")
    consortium.add(request)
    with pytest.raises(IdentityError, match="already has this key"):
        consortium.add(request.model_copy(update={"name": "Thief"}))
    own = init_site(tmp_path / "thief", "Thief").model_copy(update={"node_key": request.node_key + "\n"})
    with pytest.raises(IdentityError, match="already has this key"):
        consortium.add(own)
    with pytest.raises(ConfigError, match="node key"):
        consortium.add(own.model_copy(update={"node_key": "node"}))


def test_the_number_of_a_removed_site_is_never_given_again(tmp_path: Path) -> None:
    consortium, _ = found(tmp_path, sites=3)
    with pytest.raises(ConfigError, match="1 Site 1, 2 Site 2, 3 Site 3"):
        consortium.remove("Site 9")
    assert consortium.remove("site 3").id == 3
    assert consortium.remove("2").request.name == "Site 2"
    assert Consortium(tmp_path / "consortium", CLOCK).add(init_site(tmp_path / "new", "Site 2")) == 4
    again = Consortium(tmp_path / "consortium", CLOCK)
    kits = again.issue(tmp_path / "later", days=10)
    assert [kit.name for kit in kits] == ["coordinator.kit", "site-1.kit", "site-4.kit"]
    assert install_kit(tmp_path / "new", read_kit(kits[2]), CLOCK).site_ids() == (1, 4)
    assert SiteFolder.open(tmp_path / "new", CLOCK).site_id == 4
    install_kit(tmp_path / "server", read_kit(kits[0]), CLOCK)
    assert ServerFolder.open(tmp_path / "server", CLOCK).node_keys().keys() == {1, 4}
    with pytest.raises(RosterError, match="not on roster 2"):
        install_kit(tmp_path / "site-3", read_kit(kits[1]), CLOCK)


def test_members_that_have_not_joined_are_told_so(tmp_path: Path) -> None:
    init_site(tmp_path / "site", "S")
    with pytest.raises(ConfigError, match="not joined"):
        Trust.open(tmp_path / "site", CLOCK)
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
    with pytest.raises(ConfigError, match="Expected no URL in a site's request"):
        consortium.add(greedy)


def installed(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "trust").rglob("*")) if path.is_file()}


def test_a_wrong_kit_is_refused_and_what_is_installed_stays(tmp_path: Path) -> None:
    consortium, first = found(tmp_path / "a")
    older = read_kit(first[1])
    _, others = found(tmp_path / "b")
    second = [read_kit(path) for path in consortium.issue(tmp_path / "kits", days=10)]
    site = tmp_path / "a" / "site-1"
    install_kit(site, second[1], CLOCK)
    before = installed(site)
    foreign = read_kit(others[1])
    spoiled: dict[str, Kit] = {
        "roster 1, but roster 2": older,
        "another consortium": foreign,
        "another member's kit": second[1].model_copy(update={"certificate": second[2].certificate}),
        "authority in this kit is not the one": second[1].model_copy(update={"authority": foreign.authority}),
        "not signed by the consortium's certificate": second[1].model_copy(update={"certificate": foreign.certificate}),
        "certificate in PEM": second[1].model_copy(update={"certificate": "nonsense"}),
    }
    for text, kit in spoiled.items():
        with pytest.raises(IdentityError, match=text):
            install_kit(site, kit, CLOCK)
        assert installed(site) == before, text
    assert SiteFolder.open(site, CLOCK).tls()


def test_an_authority_swapped_before_the_first_join_is_refused(tmp_path: Path) -> None:
    _, kits = found(tmp_path / "a")
    _, others = found(tmp_path / "b")
    swapped = read_kit(kits[1]).model_copy(update={"authority": read_kit(others[1]).authority})
    with pytest.raises(IdentityError, match="authority in this kit is not the one"):
        install_kit(tmp_path / "a" / "site-1", swapped, CLOCK)
    assert not (tmp_path / "a" / "site-1" / "trust").exists()


@pytest.mark.parametrize("label", ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "CERTIFICATE"])
def test_a_second_authority_hidden_in_a_kit_is_not_trusted(tmp_path: Path, label: str) -> None:
    """OpenSSL trusts ``TRUSTED CERTIFICATE`` blocks, which a parser of certificates does not see."""
    _, kits = found(tmp_path / "a")
    _, others = found(tmp_path / "b")
    kit, hidden = read_kit(kits[1]), read_kit(others[1]).authority.replace("CERTIFICATE", label)
    site = tmp_path / "a" / "site-1"
    try:
        install_kit(site, kit.model_copy(update={"authority": kit.authority + hidden}), CLOCK)
    except IdentityError:
        assert label != "TRUSTED CERTIFICATE"
        return
    assert len(SiteFolder.open(site, CLOCK).tls().get_ca_certs()) == 1


def test_two_rosters_with_one_serial_are_refused(tmp_path: Path) -> None:
    consortium, kits = found(tmp_path)
    state = (tmp_path / "consortium" / "consortium.json").read_bytes()
    install_kit(tmp_path / "site-1", read_kit(kits[1]), CLOCK)
    consortium.add(init_site(tmp_path / "new", "Site 2 again"))
    (tmp_path / "consortium" / "consortium.json").write_bytes(state)  # a consortium restored from a backup
    restored = Consortium(tmp_path / "consortium", CLOCK)
    restored.add(init_site(tmp_path / "newer", "Site 3"))
    (tmp_path / "consortium" / "consortium.json").write_bytes(
        (tmp_path / "consortium" / "consortium.json").read_bytes().replace(b'"serial":1', b'"serial":0')
    )
    again = Consortium(tmp_path / "consortium", CLOCK).issue(tmp_path / "second", days=10)
    before = installed(tmp_path / "site-1")
    with pytest.raises(RosterError, match="has the same serial, 1"):
        install_kit(tmp_path / "site-1", read_kit(again[1]), CLOCK)
    assert installed(tmp_path / "site-1") == before


def test_old_rosters_are_kept_and_found_by_their_hash(tmp_path: Path) -> None:
    consortium, kits = found(tmp_path)
    install_kit(tmp_path / "site-1", read_kit(kits[1]), CLOCK)
    first = Trust.open(tmp_path / "site-1", CLOCK)
    consortium.remove("2")
    install_kit(tmp_path / "site-1", read_kit(consortium.issue(tmp_path / "kits", days=10)[1]), CLOCK)
    second = Trust.open(tmp_path / "site-1", CLOCK)
    assert second.roster(first.digest) == first.newest
    assert second.newest.site_ids() == (1,)
    with pytest.raises(RosterError, match="never installed"):
        second.roster("0" * 64)
    kept = tmp_path / "site-1" / "trust" / "rosters" / "000001.json"
    kept.write_bytes(kept.read_bytes().replace(b"Site 2", b"Site X"))
    with pytest.raises(RosterError, match="never installed"):
        second.roster(first.digest)


def test_certificates_are_written_again_from_the_kit(tmp_path: Path) -> None:
    """A process killed between the two files of a join must not leave an old certificate beside a new roster."""
    _, kits = found(tmp_path)
    install_kit(tmp_path / "site-1", read_kit(kits[1]), CLOCK)
    good = (tmp_path / "site-1" / "trust" / "transport.crt").read_text()
    (tmp_path / "site-1" / "trust" / "transport.crt").write_text("old")
    assert SiteFolder.open(tmp_path / "site-1", CLOCK).tls()
    assert (tmp_path / "site-1" / "trust" / "transport.crt").read_text() == good


BAD_NAMES = [
    "",
    " ",
    "[red]Mary[/]",
    "St. Mary\x1b]52;c;eA==\x07",
    "a\u202eb",
    "a\u200bb",
    "x" * 81,
    "e\u0301",
    "a  b",
    "-a",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_init_checks_everything_before_it_writes(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name is not valid"):
        init_site(tmp_path / "site", name)
    with pytest.raises(ConfigError, match="name is not valid"):
        init_server(tmp_path / "server", name, "https://127.0.0.1:8443", "127.0.0.1")
    with pytest.raises(ConfigError, match="name is not valid"):
        Consortium.create(tmp_path / "consortium", name, CLOCK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://x:1", "127.0.0.1"),
        ("https://", "127.0.0.1"),
        ("https://x:99999", "127.0.0.1"),
        ("https://x:1/path", "127.0.0.1"),
        ("https://u:p@x:1", "127.0.0.1"),
        ('https://x"y:1', "127.0.0.1"),
        ("https://x:1", '127.0.0.1"\nport = 1'),
        ("https://x:1", ""),
    ],
)
def test_a_coordinator_with_a_wrong_address_is_not_half_made(tmp_path: Path, url: str, listen: str) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        init_server(tmp_path / "server", "C", url, listen)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for place, text in (("full", "not empty"), ("file", "not a folder")):
        with pytest.raises(ConfigError, match=text):
            init_site(tmp_path / place, "S")
        with pytest.raises(ConfigError, match=text):
            init_server(tmp_path / place, "S", "https://x:1", "127.0.0.1")
        with pytest.raises(ConfigError, match=text):
            Consortium.create(tmp_path / place, "S", CLOCK)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    init_site(tmp_path / "site", "S")
    with pytest.raises(ConfigError, match="never overwritten"):
        init_site(tmp_path / "site", "S")


def test_a_request_whose_name_may_not_be_shown_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.request"
    write_json(path, init_site(tmp_path / "s", "S"))
    path.write_bytes(path.read_bytes().replace(b'"name":"S"', b'"name":"[bold]St. Mary[/] 0000 0000\\u001b[8m"'))
    with pytest.raises(ConfigError, match=r"U\+005B"):
        read_request(path)


def print_of(request: MemberRequest) -> str:
    return fingerprint(bytes.fromhex(request.public_key))
