"""A wall clock that a test steps, for one daemon: a small library before its own, compiled here."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from salus.simulations.trial import Daemon, launch

SOURCE = Path(__file__).with_name("clock.c")
NEEDED = "needs Linux and a C compiler (apt-get install gcc libc6-dev), to step a process's clock"


@dataclass
class SteppedClock:
    """The clock of the processes that are started with `launch`."""

    folder: Path

    def __post_init__(self) -> None:
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip(NEEDED)
        self._library, self._file = self.folder / "clock.so", self.folder / "clock-step"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE], check=True)
        self.step(0)

    def step(self, seconds: int) -> None:
        """Let the clock be this many seconds ahead of the machine's."""
        beside = self._file.with_suffix(".part")
        beside.write_text(str(seconds))
        beside.replace(self._file)

    def launch(self, words: Sequence[str], log: Path) -> Daemon:
        """Start a daemon with this clock in a new interpreter."""
        return launch(words, log, {"LD_PRELOAD": str(self._library), "SALUS_CLOCK_STEP": str(self._file)})
