"""Wall clocks that a test steps, one for each member: a small library before the daemons' own, compiled here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.forkserver import ForkServer
from pathlib import Path

import pytest

from salus.simulations import engine

SOURCE = Path(__file__).with_name("clock.c")
NEEDED = "needs Linux and a C compiler (apt-get install gcc libc6-dev), to step a process's clock"
HOUR_S, DAY_S = 3600, 86_400


class Clocks:
    """The clocks of daemons by the names of their folders.

    Args:
        ahead_s: seconds by which every clock is ahead of the machine's at first; with two days, the consortium is older than
            a day when a test sets a clock back.
    """

    def __init__(self, folder: Path, server: ForkServer, ahead_s: int) -> None:
        self._folder, self._ahead_s = folder, ahead_s
        self.server = server

    def _file(self, member: str) -> Path:
        return self._folder / f"{member}.step"

    def step(self, seconds: int, *members: str) -> None:
        """Set the clocks of these members this far ahead of where they were at first; negative for back, 0 for right."""
        for member in members:
            beside = self._file(member).with_suffix(".part")
            beside.write_text(str(self._ahead_s + seconds))
            beside.replace(self._file(member))

    def given(self, member: str) -> Callable[[], None]:
        """Return what gives a new process of `server` this member's clock."""
        if not self._file(member).exists():
            self.step(0, member)
        return partial(use, self._file(member))


def use(step: Path) -> None:
    """Let this process's clock be ahead by the seconds in a file."""
    os.environ["SALUS_CLOCK_STEP"] = str(step)


@contextmanager
def clocks(folder: Path, ahead_s: int = 2 * DAY_S) -> Iterator[Clocks]:
    """Make clocks that can be stepped; skips where that is not possible. Daemons must end before the block does."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip(NEEDED)
    library = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    server = ForkServer()
    server.set_forkserver_preload(engine.PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        server.ensure_running()
    try:
        yield Clocks(folder, server, ahead_s)
    finally:
        server._stop()  # type: ignore[attr-defined]
