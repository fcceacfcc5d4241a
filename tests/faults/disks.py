"""Small disks for tests: a tmpfs that can be filled, freed and made read-only. Only root may mount one."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

NEEDED = "needs root and Linux, to mount a small disk"


@dataclass
class Disk:
    """A mounted disk."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Take all the space that is left."""
        number = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (2**20, 4096, 1):
                with contextlib.suppress(OSError):
                    while os.write(number, bytes(size)):
                        pass
        finally:
            os.close(number)

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Mount it again as ``ro`` or ``rw``; ``ro`` fails while a file is open for writing."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Disk]:
    """Mount an empty disk at `folder`, which is created; unmounted at the end, whoever still uses it."""
    if os.geteuid() != 0 or not Path("/proc/self/mounts").exists():
        pytest.skip(NEEDED)
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "salus-test", folder], check=False)
    if made.returncode:
        pytest.skip(NEEDED)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
