"""A coordinator that runs takes the roster that its operator installed, from nobody else, and hands it to the sites."""

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from salus.client.config import SiteFolder, init_site
from salus.client.link import FleetLink
from salus.common.clock import ManualClock, SystemClock
from salus.common.errors import LinkError, RosterError, SalusError, WireError
from salus.common.events import Event, EventLog
from salus.common.identity import Identity
from salus.common.kit import read_kit, received_kit
from salus.common.packets import Reply, Request
from salus.common.roster import roster_hash
from salus.common.trust import install_kit
from salus.server import membership
from salus.server.config import ServerFolder, init_server
from salus.server.consortium import Consortium
from salus.server.door import Door
from salus.server.link import Link
from salus.server.listen import listen_tcp
from salus.server.membership import RETRY_S, Membership
from salus.simulations.trial import free_port

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class StubLink:
    """The link of the membership's tests: who is online, and who was made a member."""

    def __init__(self) -> None:
        self.online: set[int] = set()
        self.old: set[int] = set()
        self.members: list[set[int]] = []

    def directory(self) -> dict[int, int]:
        return {site: 100 + site for site in self.online}

    def older(self) -> set[int]:
        return self.old & self.online

    def set_members(self, node_keys: Mapping[int, str]) -> None:
        self.members.append(set(node_keys))
        self.online &= set(node_keys)

    def begin_run(self) -> Any:
        class Grid:
            def close(self) -> None: ...

        return Grid()


class World:
    """A consortium of two sites, whose coordinator's membership is driven step by step; `answers` are the sites'."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.clock = folder, ManualClock(NOW)
        self.consortium = Consortium.create(folder / "consortium", "Test", self.clock)
        self.consortium.add(init_server(folder / "server", "C", "https://127.0.0.1:8443", "127.0.0.1"))
        for number in (1, 2):
            self.consortium.add(init_site(folder / f"site-{number}", f"Site {number}"))
        self.issue()
        self.install()
        self.link, self.events = StubLink(), list[Event]()
        self.opened = ServerFolder.open(folder / "server", self.clock)
        self.port: list[ssl.SSLContext] = []
        log = EventLog(listeners=(self.events.append,))
        self.membership = Membership(self.opened, self.link, log, self.clock, self.port.append)  # type: ignore[arg-type]
        self.answers: dict[int, tuple[Reply | SalusError, bytes]] = {}
        self.sent: list[dict[int, tuple[Request, bytes]]] = []
        world = self

        class Sites:
            def __init__(self, *arguments: object) -> None: ...

            def exchange(
                self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
            ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
                world.sent.append(dict(requests))
                for site in requests:
                    yield site, *world.answers[site]

        monkeypatch.setattr(membership, "GridFederation", Sites)

    def issue(self) -> list[Path]:
        self.kits = self.consortium.issue(self.folder / "kits", days=365)
        return self.kits

    def install(self) -> None:
        install_kit(self.folder / "server", read_kit(self.kits[0]), self.clock)

    def deliver(self) -> None:
        self.membership._deliver(threading.Event())

    def has(self, site: int, text: str) -> None:
        self.answers[site] = Reply(kind="ok", site=site), text.encode()

    @property
    def newest(self) -> str:
        return f"{self.opened.roster.serial} {self.opened.trust.digest}"

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_new_roster_is_taken_at_once_and_each_site_gets_its_own_kit(world: World) -> None:
    world.link.online = {1, 2}
    for site in (1, 2):
        world.has(site, world.newest)
    world.deliver()
    assert world.membership.waiting(world.opened.trust.digest) == {}
    world.deliver()
    assert len(world.sent) == 1, "who has the newest roster is not asked again"
    old = world.newest

    world.consortium.remove("2")
    world.consortium.add(init_site(world.folder / "new", "New"))
    world.issue()
    world.install()
    said = world.membership.take()
    assert said == {"serial": 2, "sites": 2, "changed": "New joined; Site 2 left"}
    assert world.link.members == [{1, 3}]
    assert len(world.port) == 1
    assert world.membership.waiting(world.opened.trust.digest) == {1: "has not fetched roster 2 yet"}
    assert world.membership.waiting(old.split()[1]) == {}, "a running job keeps its roster"
    world.has(1, old)
    world.deliver()
    assert world.sent[-1][1][1] == b"", "a site is asked before it is sent a kit"
    world.has(1, world.newest)
    world.deliver()
    kit = received_kit(world.sent[-1][1][1])
    assert kit == read_kit(world.kits[1])
    assert world.membership.waiting(world.opened.trust.digest) == {}
    assert {site: one.serial for site, one in world.membership.rosters().items()} == {1: 2}
    again = Membership(world.opened, world.link, EventLog(), world.clock)  # type: ignore[arg-type]
    assert again.rosters() == world.membership.rosters(), "known after a restart, too"
    assert world.membership.take()["changed"] == "New joined; Site 2 left", "without a new kit nothing changes"
    assert world.kinds().count("roster-installed") == 1


def newer(world: World) -> bytes:
    world.consortium.remove("2")
    return read_kit(world.issue()[1]).to_bytes()


@pytest.mark.parametrize("answer", ["kit", "claim", "junk", "much", "nothing", "refusal"])
def test_a_hostile_site_cannot_make_the_coordinator_take_a_roster(world: World, answer: str) -> None:
    digest, before = world.opened.trust.digest, (world.folder / "server" / "trust" / "kit.json").read_bytes()
    world.link.online = {1, 2}
    world.has(2, world.newest)
    blob = {
        "kit": newer(world), "claim": b"999999999 " + b"f" * 64, "junk": b"\x00[[[", "much": b"9" * 10_000_000,
        "nothing": b"", "refusal": b"",
    }[answer]  # fmt: skip
    kind, text = ("refused", "[red]all is well[/] " + "x" * 1500) if answer == "refusal" else ("ok", "")
    world.answers[1] = Reply.model_validate({"kind": kind, "site": 1, "text": text}), blob
    world.deliver()
    world.deliver()
    assert len(world.sent) == 1, "it is asked once"
    assert all(blob == b"" for _, blob in world.sent[0].values())
    assert world.opened.trust.digest == digest
    assert (world.folder / "server" / "trust" / "kit.json").read_bytes() == before
    assert world.link.members == []
    problem = world.membership.rosters()[1].problem
    assert problem
    assert len(problem) <= 500
    assert world.membership.rosters()[2].problem == "", "nothing changes for the other sites"
    told = [event.fields["site"] for event in world.events if event.kind == "roster-refused"]
    assert told == [1]


def test_a_site_that_keeps_its_old_roster_is_asked_again_later_and_a_busy_one_at_once(world: World) -> None:
    world.link.online = {1, 2}
    old = world.newest
    world.issue()
    world.install()
    world.membership.take()
    world.has(1, old)
    world.answers[2] = WireError("Site 2 did not answer in time.", remedy=""), b""
    world.deliver()
    world.deliver()
    assert [sorted(sent) for sent in world.sent] == [[1, 2], [1, 2]]
    assert "did not install" in world.membership.rosters()[1].problem
    assert set(world.membership.waiting(world.opened.trust.digest)) == {2}
    world.deliver()
    assert sorted(world.sent[-1]) == [2]
    world.clock.sleep(RETRY_S)
    world.deliver()
    assert sorted(world.sent[-1]) == [1, 2]
    world.has(1, world.newest)
    world.has(2, world.newest)
    world.deliver()
    assert all(one.problem == "" for one in world.membership.rosters().values())


def test_a_site_that_comes_back_is_asked_again_and_an_old_version_is_left_in_peace(world: World) -> None:
    world.link.online, world.link.old = {1, 2}, {2}
    world.has(1, world.newest)
    world.deliver()
    assert sorted(world.sent[-1]) == [1]
    assert "by hand" in world.membership.rosters()[2].problem
    world.link.online = set()
    world.deliver()
    world.link.online = {1, 2}
    world.link.old = set()
    world.has(2, world.newest)
    world.deliver()
    assert sorted(world.sent[-1]) == [1, 2]


def test_a_kit_without_the_sites_certificates_is_not_passed_on(world: World) -> None:
    """One that an older version of Salus has issued."""
    world.link.online = {1}
    old = world.newest
    world.issue()
    kit = read_kit(world.kits[0]).model_copy(update={"sites": ()})
    install_kit(world.folder / "server", kit, world.clock)
    world.membership.take()
    world.has(1, old)
    world.deliver()
    assert "no certificate" in world.membership.rosters()[1].problem


def test_a_kit_that_cannot_be_used_changes_nothing_and_is_told_once(world: World) -> None:
    path = world.folder / "server" / "trust" / "kit.json"
    kit = read_kit(path)
    stranger = Identity.generate().public_key.hex()
    path.write_bytes(kit.model_copy(update={"consortium_key": stranger}).to_bytes())
    digest = world.opened.trust.digest
    with pytest.raises(SalusError):
        world.membership.take()
    with pytest.raises(SalusError):
        world.membership._look()
    world.membership._look()
    assert world.opened.trust.digest == digest
    assert world.link.members == []
    world.issue()
    path.write_bytes(kit.to_bytes())
    world.install()
    world.membership._look()
    assert world.opened.roster.serial == 2
    with pytest.raises(RosterError, match="roster 2 is installed"):
        install_kit(world.folder / "server", kit, world.clock)


def served(port: int, context: ssl.SSLContext) -> bytes:
    """Return the certificate that a new connection is shown."""
    import socket

    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def test_new_certificates_are_used_for_new_connections_and_the_old_ones_stay_open(tmp_path: Path) -> None:
    clock, port = SystemClock(), free_port()
    consortium = Consortium.create(tmp_path / "consortium", "Test", clock)
    consortium.add(init_server(tmp_path / "server", "C", f"https://127.0.0.1:{port}", "127.0.0.1"))
    for number in (1, 2):
        consortium.add(init_site(tmp_path / f"site-{number}", f"Site {number}"))
    members = [tmp_path / "server", tmp_path / "site-1", tmp_path / "site-2"]
    for member, kit in zip(members, consortium.issue(tmp_path / "kits", days=30), strict=True):
        install_kit(member, read_kit(kit), clock)
    server = ServerFolder.open(members[0], clock)
    sites = [SiteFolder.open(member, clock) for member in members[1:]]
    link = Link(server.node_keys())
    listener = listen_tcp(link.app, "127.0.0.1", port, server.tls())
    keeper = Membership(server, link, EventLog(), clock, listener.renew)
    door = listener._server.servers[0]
    assert isinstance(door, Door)
    try:
        with FleetLink(f"https://127.0.0.1:{port}", sites[0].tls(), sites[0].node_key) as mine:
            node = mine.activate()
            consortium.remove("2")
            with FleetLink(f"https://127.0.0.1:{port}", sites[1].tls(), sites[1].node_key) as revoked:
                revoked.activate()
                kits = [read_kit(kit) for kit in consortium.issue(tmp_path / "later", days=60)]
                install_kit(members[0], kits[0], clock)
                keeper.take()
                with pytest.raises(LinkError):
                    revoked.heartbeat()
                with pytest.raises(LinkError):
                    revoked.activate()
            mine.heartbeat()  # over the connection from before
            assert served(port, sites[0].tls()) == der(kits[0].certificate)
            install_kit(members[1], kits[1], clock)
            assert sites[0].renew()
            mine.renew(f"https://127.0.0.1:{port}", sites[0].tls())
            mine.heartbeat()
            assert hashlib.sha256(der(kits[1].certificate)).digest() in door._inside.values()
            assert link.directory() == {1: node}, "it never went away"
            mine.renew("https://127.0.0.1:1", sites[0].tls())
            with pytest.raises(LinkError):
                mine.heartbeat()  # another URL: the site connects anew
    finally:
        listener.close()
    assert roster_hash(kits[0].roster) == server.trust.digest
    assert json.loads((members[1] / "trust" / "kit.json").read_bytes())["name"] == "Site 1"
