"""A hostile coordinator hands out rosters: what a site installs, what it refuses, and what its operator is told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from salus.client import renewing
from salus.client.config import SiteFolder, init_site
from salus.client.renewing import RosterReceiver
from salus.common.clock import ManualClock
from salus.common.events import Event, EventLog
from salus.common.kit import Kit, read_kit
from salus.common.packets import Reply, Request, header_of, reply_of
from salus.common.roster import roster_hash
from salus.common.trust import install_kit
from salus.server.config import init_server
from salus.server.consortium import Consortium

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Hospital:
    """Site 1 of a consortium of two, with a receiver as the daemon has it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOW)
        self.folder, self.site = folder, folder / "site-1"
        self.consortium = Consortium.create(folder / "consortium", "Test", self.clock)
        self.consortium.add(init_server(folder / "server", "C", "https://127.0.0.1:8443", "127.0.0.1"))
        for number in (1, 2):
            self.consortium.add(init_site(folder / f"site-{number}", f"Site {number}"))
        self.first = self.issue()
        install_kit(self.site, self.first, self.clock)
        self.events: list[Event] = []
        self.told: list[tuple[str, bool]] = []
        self.opened = SiteFolder.open(self.site, self.clock)
        log = EventLog(listeners=(self.events.append,))
        self.receiver = RosterReceiver(
            self.opened, self.clock, log, lambda line, alarm: self.told.append((line, alarm))
        )

    def issue(self, days: int = 365) -> Kit:
        return read_kit(self.consortium.issue(self.folder / "kits", days=days)[1])

    def send(self, blob: bytes, digest: str = "0" * 64) -> tuple[Reply, bytes]:
        header, answer = self.receiver.answer(header_of(Request(kind="roster", roster=digest)), blob)
        return reply_of(header), answer

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.site)): p.read_bytes() for p in self.site.rglob("*") if p.is_file()}

    def refuses(self, blob: bytes, why: str) -> None:
        """Check that a blob is refused, changes nothing, and is told to the operator as an alarm."""
        self.clock.sleep(86_400)  # the same reason is told once a day
        before, digest = self.files(), self.opened.trust.digest
        self.events.clear()
        self.told.clear()
        reply, _ = self.send(blob)
        assert reply.kind == "refused"
        assert why in reply.text, reply.text
        assert self.files() == before
        assert self.opened.trust.digest == digest
        assert [event.kind for event in self.events] == ["roster-refused"]
        assert why in str(self.events[0].fields["text"])
        assert [alarm for line, alarm in self.told if why in line] == [True]


def test_a_newer_roster_is_installed_and_used_and_only_trust_changes(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    reply, blob = hospital.send(b"")
    assert (reply.kind, blob) == ("ok", f"1 {roster_hash(hospital.first.roster)}".encode())
    hospital.consortium.remove("2")
    hospital.consortium.add(init_site(tmp_path / "new", "New"))
    before, second = hospital.files(), hospital.issue()
    reply, blob = hospital.send(second.to_bytes())
    assert (reply.kind, blob) == ("ok", f"2 {roster_hash(second.roster)}".encode())
    changed = {name for name, data in hospital.files().items() if before.get(name) != data}
    assert changed == {"trust/kit.json", "trust/transport.crt", "trust/rosters/000002.json"}
    assert hospital.opened.roster.site_ids() == (1, 3)
    event = hospital.events[-1]
    assert (event.kind, event.fields["joined"], event.fields["left"]) == ("roster-installed", ["New"], ["Site 2"])
    assert hospital.told == [("Roster 2 is in use, valid until 2027-11-01: New joined; Site 2 left.", False)]
    known = hospital.files()
    assert hospital.send(second.to_bytes())[0].kind == "ok"
    assert hospital.files() == known, "the same kit again changes nothing"


def test_rosters_that_are_rolled_back_forged_or_foreign_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "a")
    second = hospital.issue()
    install_kit(hospital.site, second, hospital.clock)
    hospital.send(b"")  # what a person installed is used, too
    assert hospital.opened.roster.serial == 1, "the daemon looks between two requests"
    hospital.opened.renew()
    hospital.refuses(hospital.first.to_bytes(), "has roster 1, but roster 2 is installed")

    third = hospital.issue()
    document = third.roster.document.replace('"serial":3', '"serial":9')
    forged = third.model_copy(update={"roster": third.roster.model_copy(update={"document": document})})
    hospital.refuses(forged.to_bytes(), "the signature does not verify")
    other = Hospital(tmp_path / "b").issue()
    hospital.refuses(other.to_bytes(), "from a different consortium")
    resigned = other.model_copy(update={"consortium_key": third.consortium_key})
    hospital.refuses(resigned.to_bytes(), "the signature does not verify")
    hospital.refuses(
        third.model_copy(update={"authority": other.authority}).to_bytes(), "not the one that the signed roster names"
    )
    hospital.refuses(
        third.model_copy(update={"certificate": other.certificate}).to_bytes(), "not signed by the consortium's"
    )
    short = hospital.issue(days=2)
    hospital.refuses(third.model_copy(update={"certificate": short.certificate}).to_bytes(), "belongs to an older kit")
    assert hospital.send(third.to_bytes())[0].kind == "ok"


def test_another_members_kit_and_the_kit_after_a_removal_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.issue()
    coordinators = read_kit(tmp_path / "kits" / "coordinator.kit")
    hospital.refuses(coordinators.to_bytes(), "got the coordinator's")
    neighbour = read_kit(tmp_path / "kits" / "site-2.kit")
    hospital.refuses(neighbour.to_bytes(), "for another key")
    hospital.consortium.remove("1")
    kits = hospital.consortium.issue(tmp_path / "later", days=365)
    hospital.refuses(read_kit(kits[1]).to_bytes(), "not on roster 3")


def test_two_rosters_with_one_serial_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    state = (tmp_path / "consortium" / "consortium.json").read_bytes()
    second = hospital.issue()
    assert hospital.send(second.to_bytes())[0].kind == "ok"
    (tmp_path / "consortium" / "consortium.json").write_bytes(
        state
    )  # a consortium's folder that was restored from a backup
    hospital.consortium = Consortium(tmp_path / "consortium", hospital.clock)
    hospital.clock.sleep(60)
    hospital.refuses(hospital.issue().to_bytes(), "the same serial, 2")


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"no json", "Expected a kit in JSON"),
        (b"[" * 100_000, "more lists or values"),
        (b"[" + b"1," * 1_000_000 + b"1]", "more lists or values"),
        (b'{"a":' * 100_000, "Expected a kit in JSON"),
        (b"{}", "does not state a format"),
        (json.dumps({"format": 2}).encode(), "format 2"),
        (json.dumps({"format": 1, "name": "x"}).encode(), "missing key"),
        (b"1" * 10_000, "Expected a kit in JSON"),
        (b"\xff\xfe", "Expected a kit in JSON"),
    ],
)
def test_malformed_kits_are_refused(tmp_path: Path, blob: bytes, why: str) -> None:
    Hospital(tmp_path).refuses(blob, why)


def test_an_oversize_kit_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital = Hospital(tmp_path)
    monkeypatch.setattr("salus.common.kit.MAX_RECEIVED_BYTES", 1000)
    hospital.refuses(b"[" * 1001, "at most 1000 bytes")


def test_a_message_of_another_kind_and_another_packet_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    for header in (header_of(Request(kind="hello")), b"", b"[]", b'{"kind":"roster"}'):
        assert reply_of(hospital.receiver.answer(header, b"")[0]).kind == "refused"
    assert [event.kind for event in hospital.events] == ["roster-refused"] * 4


def test_a_coordinator_that_repeats_itself_does_not_fill_the_log(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    for _ in range(5):
        hospital.send(b"no json")
    assert len(hospital.events) == len(hospital.told) == 1
    for number in range(100):
        hospital.send(json.dumps({"format": 1, f"x{number}": 1}).encode())
    assert len(hospital.events) == renewing.REFUSALS_A_DAY
    hospital.clock.sleep(timedelta(days=1).total_seconds())
    hospital.send(b"no json")
    assert len(hospital.events) == renewing.REFUSALS_A_DAY + 1


def test_an_expired_roster_is_replaced_but_not_by_an_expired_one(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    late = hospital.issue(days=5)
    hospital.clock.sleep(timedelta(days=400).total_seconds())
    hospital.refuses(late.to_bytes(), "valid from")
    assert hospital.send(hospital.issue().to_bytes())[0].kind == "ok"
