"""An exchange ends when everybody has answered, when the time is up for those who are silent, and when somebody cancels."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from salus.common.clock import ManualClock
from salus.common.errors import SalusError, WireError
from salus.common.packets import Reply, Request, pack
from salus.server.federation import GridFederation
from salus.server.link_grid import RunGrid

NODES = {1: 101, 2: 102, 3: 103}


class Nodes(RunGrid):
    """Nodes of which some never answer."""

    def __init__(self, silent: set[int]) -> None:
        self._silent, self._replies = silent, dict[str, Message]()
        self._run = Run.create_empty(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            site = next(s for s, node in NODES.items() if node == message.metadata.dst_node_id)
            if site not in self._silent:
                self._replies[f"m{number}"] = Message(pack(Reply(kind="ok", site=site), b"yes"), reply_to=message)
            identifiers.append(f"m{number}")
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def get_node_ids(self) -> Iterable[int]:
        return NODES.values()

    def get_nodes(self) -> Iterable[object]:  # type: ignore[override]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def exchange(silent: set[int], cancelled: bool = False) -> tuple[dict[int, Reply | SalusError], float]:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    federation = GridFederation(Nodes(silent), lambda: NODES, lambda: cancelled, clock)
    asked = dict.fromkeys(NODES, (Request(kind="hello"), b""))
    found = {site: reply for site, reply, _ in federation.exchange(asked, timeout_s=3600.0)}
    return found, clock.monotonic_s()


def test_a_site_that_dies_silently_is_named_when_the_time_is_up_and_the_others_are_not_lost() -> None:
    found, elapsed_s = exchange({2})
    assert {site: type(reply) for site, reply in found.items()} == {1: Reply, 2: WireError, 3: Reply}
    assert 3600 <= elapsed_s < 3601


def test_nobody_waits_when_everybody_has_answered() -> None:
    found, elapsed_s = exchange(set())
    assert sorted(found) == [1, 2, 3]
    assert elapsed_s < 1


class Slow(Nodes):
    """Nodes that answer a given time after they were asked."""

    def __init__(self, clock: ManualClock, after_s: float) -> None:
        super().__init__(set())
        self._clock, self._after_s, self.polls = clock, after_s, 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.polls += 1
        return super().pull_messages(message_ids) if self._clock.monotonic_s() >= self._after_s else []


@pytest.mark.parametrize("after_s", [0.01, 0.5, 3.0, 60.0, 1800.0])
def test_a_wait_costs_few_looks_and_makes_a_round_hardly_longer(after_s: float) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    nodes = Slow(clock, after_s)
    federation = GridFederation(nodes, lambda: NODES, lambda: False, clock)
    found = list(federation.exchange(dict.fromkeys(NODES, (Request(kind="hello"), b"")), timeout_s=3600.0))
    assert all(isinstance(reply, Reply) for _, reply, _ in found)
    assert clock.monotonic_s() <= after_s + max(0.021, min(0.06 * after_s, 0.21))
    assert nodes.polls <= 70 + after_s / 0.19


def test_a_cancelled_exchange_ends_at_once() -> None:
    found, elapsed_s = exchange({1, 2, 3}, cancelled=True)
    assert elapsed_s < 1
    assert found == {}, "nobody is said to have been silent who was not given the time to answer"
