"""How long a decoding child may keep its site waiting."""

import os
import signal
import subprocess
import sys

import pytest
from tests.client.data.dicom.test_deidentify import image
from tests.client.data.incoming.test_importing import file_bytes

from salus.client.data.dicom import channel
from salus.client.data.dicom.channel import LONGEST_S, Channel, cpu_clock
from salus.client.data.dicom.cleaning import Isolated


def test_a_child_that_asks_for_a_file_again_and_again_gets_no_more_than_the_longest_time() -> None:
    now = 1000.0
    line = Channel(*os.pipe(), clock=lambda: now)
    line.begin(60.0)
    line.extend(5.0)
    assert line.deadline == 1065.0
    for _ in range(100_000):  # as many questions as one operation may have, each about half a gigabyte
        line.extend(50.0)
    assert line.deadline == 1000.0 + LONGEST_S
    now = 2000.0
    line.begin(2 * LONGEST_S)  # an operator's own longer limit stays
    line.extend(1.0)
    assert line.deadline == 2000.0 + 2 * LONGEST_S
    line.close()


def test_a_busy_machine_refuses_nothing_and_a_busy_process_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock both take many times the limit; only the second one uses the processor."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    them = Channel(theirs_in, theirs_out)
    looks = 0

    def starved() -> float:
        nonlocal looks
        looks += 1
        if looks == 20:  # each look comes after a wait of the whole limit
            them.send(b"a", b"late")
        return 0.0

    monkeypatch.setattr(channel, "PATIENCE", 1e6)  # this machine may be as slow as it likes
    us = Channel(ours_in, ours_out, clock=starved)
    us.begin(0.002)
    assert us.receive() == (b"a", b"late", 0)
    assert looks >= 20
    us._clock = iter([0.0, 0.001, 0.003]).__next__
    us.begin(0.002)
    with pytest.raises(TimeoutError):
        us.receive()
    monkeypatch.setattr(channel, "PATIENCE", 2.0)  # one that waits for ever uses no processor either
    us._clock = lambda: 0.0
    us.begin(0.002)
    with pytest.raises(TimeoutError):
        us.receive()
    us.close()
    them.close()


def test_the_clock_of_a_process_counts_what_it_uses() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input(); sum(range(10**6)); print(flush=True); input()"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    clock = cpu_clock(process.pid)
    before = clock()
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    assert clock() > before
    process.kill()
    process.communicate()
    assert clock() == 0.0


def test_a_stopped_decoder_goes_on_and_its_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Isolated(b"s" * 32, seconds=1.0) as child:
        monkeypatch.setattr(channel, "PATIENCE", 1e6)
        good = file_bytes(image())
        child.clean(good)
        inner = child._child._channel
        assert inner is not None
        real, looks = inner._clock, 0

        def counted() -> float:
            nonlocal looks
            looks += 1
            if looks == 3:  # after two waits of the whole limit
                os.kill(child.process_id, signal.SIGCONT)
            return real() if looks > 3 else first

        first = real()
        inner._clock = counted
        os.kill(child.process_id, signal.SIGSTOP)
        assert child.clean(good).patient
        assert looks >= 3
