from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests.server.test_consortium import found

from salus.client.config import SiteFolder
from salus.client.daemon import MAX_BEGUN, Attempts, SiteDaemon
from salus.common.clock import ManualClock
from salus.common.kit import read_kit
from salus.common.packets import Request, pack, unpack_reply
from salus.common.trust import install_kit


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
