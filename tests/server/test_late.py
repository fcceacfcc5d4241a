"""A site that still works on a request of before is waited for while it gets on, and not dropped by the next deadline."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import Message
from tests.server.test_consortium import found
from tests.server.test_federation import NODES, Nodes, report

from salus.common.clock import ManualClock
from salus.common.errors import WireError
from salus.common.kit import read_kit
from salus.common.packets import Reply, Request
from salus.common.progress import Progress, Seen, nobody
from salus.common.trust import install_kit
from salus.server.config import ServerFolder
from salus.server.daemon import CoordinatorDaemon
from salus.server.federation import GridFederation
from salus.server.late import LateWork
from salus.server.link import Link
from salus.server.turns import Turns

OLD, OTHER = "a" * 64, "b" * 64
LATE_S = 3000.0  # for how long site 2 works on the request of before
TIMEOUT_S = 60.0


def manual() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def gets_on(seconds: float) -> Progress:
    """Return what a site says that needs 50 minutes for the request of before."""
    return report(OLD, "training", int(seconds / 30)) if seconds < LATE_S else Progress()


def reports(clock: ManualClock, said: Callable[[float], Progress]) -> Callable[[], dict[int, Seen]]:
    return lambda: {2: Seen(said(clock.monotonic_s()), clock.monotonic_s())}


def held_after_s(said: Callable[[float], Progress], cancelled: Callable[[], bool] = lambda: False) -> float:
    clock = manual()
    turns = Turns(reports(clock, said), clock)
    with turns.hold("job", [1, 2, 3], cancelled, late_s=TIMEOUT_S):
        return clock.monotonic_s()


def test_an_attempt_begins_when_late_work_has_ended() -> None:
    assert LATE_S <= held_after_s(gets_on) < LATE_S + 1


def test_nobody_waits_for_sites_at_rest_or_for_sites_that_are_not_asked() -> None:
    assert held_after_s(lambda s: Progress()) == 0
    clock = manual()
    with Turns(reports(clock, gets_on), clock).hold("job", [1, 3], late_s=TIMEOUT_S):
        assert clock.monotonic_s() == 0


@pytest.mark.parametrize(
    "said",
    [
        lambda s: report(OLD, "training", 7),  # hangs, and its daemon is alive
        lambda s: report(OLD, "training", 100 - int(s) % 100),  # goes back
        lambda s: report(f"{int(s / 59):064x}", "training", 1),  # always another request
    ],
)
def test_who_does_not_get_on_is_waited_for_once(said: Callable[[float], Progress]) -> None:
    assert TIMEOUT_S - 2 <= held_after_s(said) < 2 * TIMEOUT_S + 1


def test_a_lie_about_late_work_gains_a_bounded_time() -> None:
    assert held_after_s(lambda s: report(OLD, "training", min(100, int(s / 59)))) < 101 * TIMEOUT_S


def test_a_cancelled_job_does_not_wait_for_late_work() -> None:
    assert held_after_s(gets_on, lambda: True) == 0


def test_who_is_waited_for_is_said_once() -> None:
    clock, said = manual(), list[dict[int, str]]()
    with Turns(reports(clock, gets_on), clock).hold("job", [1, 2, 3], tell=said.append, late_s=TIMEOUT_S):
        assert said == [{2: ""}]


def test_what_a_site_says_after_its_rest_is_not_late_work() -> None:
    clock = manual()
    now = [report(OLD, "training", 1)]
    late = LateWork(lambda: {2: Seen(now[0], 0.0)}, clock, TIMEOUT_S)
    assert late.of([2]) == {2}
    now[0] = Progress()
    assert late.of([2]) == set()
    now[0] = report(OLD, "training", 2)
    assert late.of([2]) == set()


class Busy(Nodes):
    """Nodes of which the second one takes a message only when its late work has ended."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(set())
        self._clock = clock

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ended = self._clock.monotonic_s() >= LATE_S
        return super().pull_messages([name for name in message_ids if ended or int(name, 16) != 1])


@pytest.mark.parametrize("waits", [True, False])
def test_a_site_with_late_work_is_not_dropped_by_the_deadline_of_the_next_request(waits: bool) -> None:
    """Progress on the request of before gains no time within an exchange, so without the wait the site is dropped."""
    clock = manual()
    progress = reports(clock, gets_on)
    federation = GridFederation(Busy(clock), lambda: NODES, lambda: False, clock, progress)
    asked = dict.fromkeys(NODES, (Request(kind="hello"), b""))
    with Turns(progress if waits else nobody, clock).hold("job", list(NODES), late_s=TIMEOUT_S):
        found = {site: reply for site, reply, _ in federation.exchange(asked, TIMEOUT_S)}
    assert isinstance(found[2], Reply if waits else WireError)


def test_the_coordinator_asks_its_link_for_late_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    install_kit(tmp_path / "server", read_kit(kits[0]), clock)
    monkeypatch.setattr(Link, "progress", lambda link: {2: Seen(report(OLD, "training", 1), 0.0)})
    daemon = CoordinatorDaemon(ServerFolder.open(tmp_path / "server", clock), clock)
    said: list[dict[int, str]] = []
    with daemon._turns.hold("job", [1, 2], iter([False, True]).__next__, said.append):
        assert said == [{2: ""}]
