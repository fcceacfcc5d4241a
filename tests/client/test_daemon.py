from datetime import UTC, datetime
from pathlib import Path

import grpc
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.builders import write_npz
from tests.server.test_consortium import found

from salus.client.config import SiteFolder, open_catalogue
from salus.client.daemon import MAX_BEGUN, Attempts, SiteDaemon
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.troubles import Finding
from salus.common.clock import ManualClock
from salus.common.health import DATA
from salus.common.kit import read_kit
from salus.common.packets import Request, pack, unpack_reply
from salus.common.trust import install_kit
from salus.simulations.trial import free_port


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
    daemon = SiteDaemon(SiteFolder.open(tmp_path / "site-1", clock), clock, lambda line, alarm: lines.append(line))
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(pack(Request(kind="hello")), 7, "query.hello", ttl=60.0)
    message.metadata.__dict__["_message_id"] = "m"
    context = Context(0, 7, {}, RecordDict(), {})
    assert unpack_reply(daemon._answer(message, context).content)[0].kind == "ok"
    assert [line for line in lines if "in 10 days" in line] == lines
    clock.sleep(11 * 86_400)
    refused, _ = unpack_reply(daemon._answer(message, context).content)
    assert refused.kind == "refused"
    assert refused.error == "RosterError"
    assert "ask the consortium for a new kit" in refused.text
    assert len(lines) == 3  # that the roster has ended, and that a request was refused for it
    assert lines[-1].startswith("Refused: ")


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
    daemon = SiteDaemon(SiteFolder.open(site, clock), clock, lambda line, alarm: lines.append((line, alarm)))
    assert daemon._health is not None
    with grpc.insecure_channel(f"127.0.0.1:{daemon._health.port}") as channel:

        def state(service: str) -> object:
            asked = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(asked).status

        assert [alarm for line, alarm in lines if "'toy'" in line] == [True]
        assert state(DATA) == health_pb2.HealthCheckResponse.NOT_SERVING
        (tmp_path / "moved.npz").rename(toy_npz)
        daemon._site.recheck()
        assert state(DATA) == health_pb2.HealthCheckResponse.SERVING
        assert lines[-1] == ("Data set 'toy' can be read again.", False)
    daemon._health.close()
