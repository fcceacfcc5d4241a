"""`salus client status` says in sentences how a site is."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tests.cli import salus

from salus.client.config import init_site
from salus.common.clock import ManualClock, SystemClock
from salus.common.events import EventLog
from salus.common.kit import read_kit
from salus.common.lock import FolderLock
from salus.common.trust import install_kit
from salus.server.config import init_server
from salus.server.consortium import Consortium

EVIL = "no\x1b]52;c;eA==\x07 [red]budget[/]"


def joined(folder: Path, *, days: int) -> Path:
    clock = SystemClock()
    consortium = Consortium.create(folder / "consortium", "Test", clock)
    consortium.add(init_server(folder / "server", "C", "https://127.0.0.1:8443", "127.0.0.1"))
    consortium.add(init_site(folder / "site", "St. Mary"))
    install_kit(folder / "site", read_kit(consortium.issue(folder / "kits", days=days)[1]), clock)
    return folder / "site"


def test_a_new_site_is_told_what_to_do(tmp_path: Path) -> None:
    site = joined(tmp_path, days=365)
    shown = salus("client", "status", site)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[:2] == [
        "Site 1, St. Mary, of Test.",
        f"The daemon is not running. Start it: salus client start {site}",
    ]
    assert "No training has run here yet." in shown.stdout
    assert "new kit" not in shown.stdout


def test_a_roster_that_ends_soon_is_a_warning(tmp_path: Path) -> None:
    site = joined(tmp_path, days=20)
    shown = salus("client", "status", site).stdout
    assert "connected sites receive it by themselves" in " ".join(shown.split())
    assert "new kit" not in shown
    assert "by themselves" in json.loads(salus("client", "status", site, "--json").stdout)["warning"]


def test_the_last_refusal_is_shown_and_obeyed_by_no_terminal(tmp_path: Path) -> None:
    site = joined(tmp_path, days=365)
    log = EventLog(site / "events.jsonl", clock=ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC)))
    log.emit("trained", job="tiny-0001", round=3, patients=12, images=40)
    log.emit("refused", job=EVIL, text=EVIL)
    shown = salus("client", "status", site).stdout
    assert "12 patients, 40 images, round 3 of job tiny-0001." in shown
    assert "[red]budget[/]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_refused_check_has_no_job_and_none_is_named(tmp_path: Path) -> None:
    site = joined(tmp_path, days=365)
    log = EventLog(site / "events.jsonl", clock=ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC)))
    log.emit("refused", job="", text="policy.toml is missing")
    assert ", a request: policy.toml is missing" in salus("client", "status", site).stdout


def test_a_refused_roster_is_an_alarm_until_a_good_one_has_come(tmp_path: Path) -> None:
    site = joined(tmp_path, days=365)
    log = EventLog(site / "events.jsonl", clock=ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC)))
    log.emit("roster-refused", error="RosterError", text=f"rolled back {EVIL}")
    shown = salus("client", "status", site).stdout
    assert "REFUSED a roster that the coordinator sent: rolled back" in shown
    assert "\x1b" not in shown
    log.emit("roster-installed", serial=2)
    assert "REFUSED" not in salus("client", "status", site).stdout
    assert json.loads(salus("client", "status", site, "--json").stdout)["roster_refused"] is None


def test_a_site_that_is_not_connected_says_why(tmp_path: Path) -> None:
    site = joined(tmp_path, days=365)
    EventLog(site / "events.jsonl", clock=SystemClock()).emit("disconnected", text=f"The node key is refused. {EVIL}")
    lock = FolderLock(site)  # as a running daemon has it
    shown = salus("client", "status", site).stdout
    lock.close()
    assert "not connected to https://127.0.0.1:8443; it keeps trying. The node key is refused." in shown
    assert "\x1b" not in shown
