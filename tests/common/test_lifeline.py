"""A child that is tied to its parent ends with it, also when the parent is killed."""

import os
import signal
import subprocess
import sys

from tests.processes import ended

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(3600)
"""
TIED = "import time; from salus.common.lifeline import watch; watch(); print('up', flush=True); time.sleep(3600)"
STUBBORN = (
    "import signal, time; from salus.common import lifeline; lifeline.GRACE_S = 0.1; signal.signal(signal.SIGTERM, "
    "signal.SIG_IGN); lifeline.watch(); print('up', flush=True); time.sleep(3600)"
)
LOOSE = "import time; print('up', flush=True); time.sleep(3600)"


def grandchild(code: str) -> tuple["subprocess.Popen[bytes]", int]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child=code)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def kill(parent: "subprocess.Popen[bytes]") -> None:
    assert parent.stdout is not None
    parent.kill()
    parent.wait()
    parent.stdout.close()


def test_a_tied_child_ends_with_its_killed_parent() -> None:
    for code in (TIED, STUBBORN):
        parent, child = grandchild(code)
        assert not ended(child, wait_s=0.0)
        kill(parent)
        assert ended(child)


def test_a_child_that_is_not_tied_lives_on() -> None:
    """So that the test above can fail."""
    parent, child = grandchild(LOOSE)
    kill(parent)
    assert not ended(child, wait_s=0.5)
    os.kill(child, signal.SIGKILL)
