"""Result files that are opened before hours of work, so that a wrong path or a full disk shows at once."""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from salus.common.errors import StorageError, storage_error


class Output:
    """Context manager that opens a result file first and moves it into place when the result is complete.

    A regular file is written beside its final path and renamed at the end, so an older result survives a failed run and
    no partial file is ever visible. A pipe or a device is written directly.

    Args:
        path: path of the result.

    Raises:
        StorageError: the file cannot be created, or cannot be written at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        direct = path.exists() and not path.is_file()
        self._beside = path if direct else path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory", str(path))
            self._file = self._beside.open("w", encoding="utf-8")
        except OSError as problem:
            raise self._explained(problem) from None

    def write(self, text: str) -> None:
        """Write the whole result and move it into place."""
        try:
            self._file.write(text)
            self._file.flush()
            if self._beside != self._path:
                os.fsync(self._file.fileno())
                self._beside.replace(self._path)
            self._file.close()
        except OSError as problem:
            raise self._explained(problem) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # `write` has reported it
            self._file.close()
        if self._beside != self._path:
            self._beside.unlink(missing_ok=True)

    def _explained(self, problem: OSError) -> StorageError | OSError:
        return storage_error(OSError(problem.errno, problem.strerror, str(self._path))) or problem
