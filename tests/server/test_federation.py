"""An exchange ends when everybody has answered, when the time is up for those who are silent, and when somebody cancels."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from salus.common.clock import ManualClock
from salus.common.errors import SalusError, WireError
from salus.common.packets import Reply, Request, pack
from salus.common.progress import Progress, Seen, Step
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
            message.metadata.__dict__["_message_id"] = f"{number:064x}"
            site = next(s for s, node in NODES.items() if node == message.metadata.dst_node_id)
            if site not in self._silent:
                self._replies[f"{number:064x}"] = Message(pack(Reply(kind="ok", site=site), b"yes"), reply_to=message)
            identifiers.append(f"{number:064x}")
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


def report(request: str, step: Step, percent: int) -> Progress:
    return Progress(request=request, step=step, percent=percent)


class Reporting(Nodes):
    """Nodes of which the silent ones report what `said` returns for their message and the time since they were asked."""

    def __init__(self, silent: set[int], clock: ManualClock, said: Callable[[str, float], Progress]) -> None:
        super().__init__(silent)
        self._clock, self._said, self.asked = clock, said, dict[int, str]()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        whole = list(messages)
        names = list(super().push_messages(whole))
        site_of = {node: site for site, node in NODES.items()}
        self.asked = {site_of[m.metadata.dst_node_id]: name for m, name in zip(whole, names, strict=True)}
        return names

    def progress(self) -> dict[int, Seen]:
        now_s = self._clock.monotonic_s()
        return {site: Seen(self._said(name, now_s), now_s) for site, name in self.asked.items() if site in self._silent}


def silent_after_s(
    said: Callable[[str, float], Progress], silent: set[int]
) -> tuple[dict[int, Reply | SalusError], float]:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    nodes = Reporting(silent, clock, said)
    federation = GridFederation(nodes, lambda: NODES, lambda: False, clock, nodes.progress)
    asked = dict.fromkeys(NODES, (Request(kind="hello"), b""))
    found = {site: reply for site, reply, _ in federation.exchange(asked, timeout_s=60.0)}
    assert nodes.asked == {}, "what nobody answered is withdrawn"
    return found, clock.monotonic_s()


def test_who_reports_progress_is_not_dropped_and_who_is_silent_afterwards_is() -> None:
    """A site that needs 50 minutes is asked with a time-out of one minute, and dies after that."""
    found, elapsed_s = silent_after_s(lambda name, s: report(name, "training", min(100, int(s / 30))), {2})
    assert isinstance(found[2], WireError)
    assert "no answer and no progress for 60 s" in str(found[2])
    assert 3060 <= elapsed_s < 3062
    assert isinstance(found[1], Reply)


def test_a_site_that_shares_its_steps_only_has_the_time_for_each_step_and_a_silent_one_has_it_once() -> None:
    steps: list[Step] = ["checking", "loading", "training", "evaluating", "protecting"]
    found, elapsed_s = silent_after_s(lambda name, s: report(name, steps[min(4, int(s / 50))], 0), {2})
    assert isinstance(found[2], WireError)
    assert 260 <= elapsed_s < 262, "60 s after its last step began"
    _, silent_s = silent_after_s(lambda name, s: report("", "waiting", 0), {2})
    assert silent_s < 62


@pytest.mark.parametrize(
    "said",
    [
        lambda name, s: report(name, "training", 7),  # hangs, and its daemon is alive
        lambda name, s: report("f" * 64, "training", min(100, int(s))),
        lambda name, s: report(name, "training", 100 - int(s) % 100),  # goes back
    ],
)
def test_reports_without_progress_gain_no_time(said: Callable[[str, float], Progress]) -> None:
    found, elapsed_s = silent_after_s(said, {2})
    assert isinstance(found[2], WireError)
    assert elapsed_s < 130


def test_a_site_that_lies_about_its_progress_gains_a_bounded_time() -> None:
    """At most one time-out for each whole percentage of each step."""
    found, elapsed_s = silent_after_s(lambda name, s: report(name, "training", min(100, int(s / 59))), {2})
    assert isinstance(found[2], WireError)
    assert elapsed_s < 101 * 60


def test_each_site_has_its_own_deadline() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    nodes = Reporting({1, 2}, clock, lambda name, s: report(name, "training", min(100, int(s / 30))))
    reports = lambda: {site: report for site, report in nodes.progress().items() if site == 1}  # noqa: E731
    federation = GridFederation(nodes, lambda: NODES, lambda: False, clock, reports)
    times = {}
    for site, _, _ in federation.exchange(dict.fromkeys(NODES, (Request(kind="hello"), b"")), timeout_s=60.0):
        times[site] = clock.monotonic_s()
    assert times[2] < 61
    assert times[1] > 3000


def test_a_site_that_is_not_connected_is_named() -> None:
    federation = GridFederation(
        Nodes(set()), lambda: {1: 101}, lambda: False, ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    )
    found = {
        site: reply for site, reply, _ in federation.exchange(dict.fromkeys((1, 2), (Request(kind="hello"), b"")), 60.0)
    }
    assert "Site 2 is not connected" in str(found[2])
