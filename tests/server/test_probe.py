"""The coordinator's answer to `salus doctor`: bounded for each site, and nothing but time, version and roster."""

from collections import deque
from datetime import UTC, datetime

import pytest

from salus.common.clock import ManualClock
from salus.common.errors import WireError
from salus.common.probe import MAX_PADDING, ProbeRequest, pack_probe, read_probe_answer, read_probe_request
from salus.server.probe import MOST_BYTES, MOST_PROBES, PERIOD_S, TOO_MANY, Probes

CLOCK = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))


def probes() -> Probes:
    return Probes(CLOCK.now, CLOCK.monotonic_s, lambda: 7)


def test_an_answer_states_time_and_roster_and_has_the_bytes_that_were_asked_for() -> None:
    status, body = probes().answer(b"key", pack_probe(ProbeRequest(answer_bytes=1000), 50))
    line, _, padding = body.partition(b"\n")
    assert status == 200
    assert len(body) == len(line) + 1 + 1000
    answer = read_probe_answer(body)
    assert (answer.roster, datetime.fromisoformat(answer.time)) == (7, CLOCK.now())
    assert padding != bytes(1000)


@pytest.mark.parametrize("body", [b"", b"{}x", b'{"answer_bytes": 99999999}', b'{"answer_bytes": -1}', b'{"more": 1}'])
def test_anything_else_is_refused(body: bytes) -> None:
    assert probes().answer(b"key", body) == (400, b"")
    with pytest.raises(WireError):
        read_probe_request(body)


def test_a_site_can_neither_ask_for_too_many_bytes_nor_too_often_and_others_are_not_affected() -> None:
    clock, mine = ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), b"one"
    bounded = Probes(clock.now, clock.monotonic_s, lambda: 1)
    bounded._spent[mine] = deque([(0.0, MOST_BYTES - MAX_PADDING)])
    assert bounded.answer(mine, pack_probe(ProbeRequest(answer_bytes=MAX_PADDING), 0))[0] == TOO_MANY
    assert bounded.answer(b"other", pack_probe(ProbeRequest(), 0))[0] == 200
    small = pack_probe(ProbeRequest(), 0)
    assert {bounded.answer(mine, small)[0] for _ in range(MOST_PROBES - 1)} == {200}
    assert bounded.answer(mine, small)[0] == TOO_MANY
    clock.sleep(PERIOD_S + 1)
    assert bounded.answer(mine, small)[0] == 200
