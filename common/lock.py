"""One daemon per folder: an advisory lock that the kernel releases when the process ends for any reason."""

import fcntl
import os
from pathlib import Path

from salus.common.errors import ConfigError

NAME = "daemon.lock"


class FolderLock:
    """Holds ``<folder>/daemon.lock`` until closed; raises ConfigError if another process holds it."""

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise ConfigError(
                f"A daemon is already running in {folder.name!r}.",
                remedy="Stop it first, or show its state with the status command.",
            ) from None

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)


def is_running(folder: Path) -> bool:
    """Return whether a daemon holds the lock of this folder; makes no file there."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
