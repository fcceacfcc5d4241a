import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.builders import write_npz
from tests.cli import salus
from tests.processes import start
from tests.server.test_consortium import found

from salus.client.config import SiteFolder, open_catalogue
from salus.client.daemon import MAX_BEGUN, Attempts, SiteDaemon
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.troubles import Finding
from salus.client.executors.base import Run
from salus.client.executors.frames import PROGRESS, frame_of
from salus.client.executors.process import ProcessBackend
from salus.client.link import FleetLink
from salus.client.link_direct import Delivery, Meta
from salus.common.clock import ManualClock
from salus.common.health import DATA
from salus.common.kit import read_kit
from salus.common.packets import Request, header_of, reply_of
from salus.common.progress import Progress
from salus.common.trust import install_kit
from salus.common.versions import check_protocol
from salus.simulations.trial import free_port


class Nowhere:
    """A place for work that is not needed."""

    local, start_s = False, 0.0

    def start(self) -> Run:
        raise AssertionError


EARLIER = """
import sys
from datetime import UTC, datetime
from salus.client.config import SiteFolder
from salus.client.executors.worker import main
from salus.common.clock import ManualClock
clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
main(sys.argv[1:], lambda folder, events, reporter: SiteFolder.open(folder, clock).site(events, clock))
"""


def earlier(words: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a worker that lives by the clock of these tests. Not by a fork: the health service has threads."""
    return start([sys.executable, "-c", EARLIER, *words], pass_fds=(descriptor,))


def test_a_request_that_kills_the_process_is_tried_twice_at_most(tmp_path: Path) -> None:
    path = tmp_path / "working.json"
    for _ in range(MAX_BEGUN):  # each time the process ends before `end`
        assert Attempts(path).begin("a" * 64)
    assert not Attempts(path).begin("a" * 64)
    assert Attempts(path).begin("b" * 64)


def test_finished_work_is_forgotten(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "working.json")
    for _ in range(5):
        assert attempts.begin("a" * 64)
        attempts.end()
    (tmp_path / "working.json").write_text("damaged")
    assert attempts.begin("a" * 64)


def test_nothing_is_answered_after_the_roster_has_ended(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    install_kit(tmp_path / "site-1", read_kit(kits[1]), clock)
    lines: list[str] = []
    backend = Nowhere()
    opened = SiteFolder.open(tmp_path / "site-1", clock)
    daemon = SiteDaemon(opened, clock, lambda line, alarm: lines.append(line), backend)
    hello = Delivery(
        Meta(message="a" * 32, type="query.hello", run="1", node="7", group="", created=0.0, ttl=60.0),
        header_of(Request(kind="hello")),
        b"",
    )
    assert reply_of(daemon._answer(hello)[0]).kind == "ok"
    assert [line for line in lines if "in 10 days" in line] == lines
    clock.sleep(11 * 86_400)
    refused = reply_of(daemon._answer(hello)[0])
    assert refused.kind == "refused"
    assert refused.error == "RosterError"
    assert "ask the consortium for a new kit" in refused.text
    assert len(lines) == 3  # that the roster has ended, and that a request was refused for it
    assert lines[-1].startswith("Refused: ")


@pytest.mark.parametrize(
    ("rule", "shared"),
    [("", 33), ('share_progress = "percent"', 33), ('share_progress = "step"', 0), ('share_progress = "all"', 0)],
)
def test_the_coordinator_learns_of_work_what_the_policy_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, shared: int
) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    site = tmp_path / "site-1"
    install_kit(site, read_kit(kits[1]), clock)
    daemon = SiteDaemon(SiteFolder.open(site, clock), clock, backend=Nowhere())
    (site / "policy.toml").write_text(rule)  # also while the daemon runs
    said: list[Progress] = []

    class Link:
        """A link with one request, whose work reports a third of its training."""

        def take(self) -> Delivery:
            return Delivery(
                Meta(message="a" * 32, type="train", run="1", node="7", group="", created=0.0, ttl=60.0), b"", b""
            )

        def answer(self, delivery: Delivery, header: bytes, blob: bytes) -> None:
            said.append(daemon._progress)
            daemon.stop()

    def works(delivery: Delivery) -> tuple[bytes, bytes]:
        daemon._executor._take(frame_of(PROGRESS, step="training", percent=33))
        said.append(daemon._progress)
        return b"", b""

    monkeypatch.setattr(daemon, "_answer", works)
    monkeypatch.setattr(daemon._rosters, "follow", lambda link: None)
    daemon._serve(Link())  # type: ignore[arg-type]
    assert [(one.request, one.step, one.percent) for one in said] == [
        ("a" * 32, "training", shared),
        ("a" * 32, "sending", 0),
    ]


def test_data_that_cannot_be_read_are_an_alarm_on_the_console_and_in_the_health_state(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    site = tmp_path / "site-1"
    install_kit(site, read_kit(kits[1]), clock)
    (site / "site.toml").write_text(f"health_port = {free_port()}\n")
    toy_npz = write_npz(tmp_path / "toy.npz")
    catalogue = open_catalogue(site)
    catalogue.add("toy", "medmnist", toy_npz, SourceOptions())
    catalogue.troubles.put("toy", Finding("It cannot be read."))
    toy_npz.rename(tmp_path / "moved.npz")
    lines: list[tuple[str, bool]] = []
    backend, opened = ProcessBackend(site, launch=earlier), SiteFolder.open(site, clock)
    daemon = SiteDaemon(opened, clock, lambda line, alarm: lines.append((line, alarm)), backend)
    with grpc.insecure_channel(f"127.0.0.1:{daemon._health.port}") as channel:

        def state(service: str) -> object:
            asked = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(asked).status

        assert [alarm for line, alarm in lines if "'toy'" in line] == [True]
        assert state(DATA) == health_pb2.HealthCheckResponse.NOT_SERVING
        (tmp_path / "moved.npz").rename(toy_npz)
        daemon._executor.look()
        assert state(DATA) == health_pb2.HealthCheckResponse.SERVING
        assert lines[-1] == ("Data set 'toy' can be read again.", False)
    daemon._health.close()
    daemon._executor.close()


def test_a_site_that_is_too_old_waits_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    site = tmp_path / "site-1"
    install_kit(site, read_kit(kits[1]), clock)
    lines: list[tuple[str, bool]] = []
    seen: list[str] = []
    daemon = SiteDaemon(
        SiteFolder.open(site, clock), clock, lambda line, alarm: lines.append((line, alarm)), Nowhere(),
        lambda event: seen.append(event.kind),
    )  # fmt: skip
    tries = []

    def too_old(link: FleetLink) -> int:
        tries.append(link)
        if len(tries) == 50:
            daemon.stop()
        check_protocol("99", "98", other="the coordinator", me="this site")
        raise AssertionError

    monkeypatch.setattr(FleetLink, "activate", too_old)
    monkeypatch.setattr(daemon._stop, "wait", lambda seconds: daemon._stop.is_set())
    monkeypatch.setattr(daemon, "_beat", lambda link: None)
    daemon.run()
    assert len(tries) == 50
    assert [kind for kind in seen if kind != "roster-ends"] == ["outdated", "stopped"]
    assert [alarm for line, alarm in lines if "this site is too old" in line] == [True]
    (site / "events.jsonl").write_bytes((site / "events.jsonl").read_bytes().splitlines(keepends=True)[0])
    monkeypatch.setattr("salus.common.lock.is_running", lambda folder: True)
    monkeypatch.setattr("salus.client.commands.client.SystemClock", lambda: clock)
    assert "too old for the coordinator" in salus("client", "status", site).stdout
