"""The store of de-identified images: one file per image, named by the hash of its content, and their labels in one table.

A batch of images is made durable together, because waiting for the disk takes longer than de-identifying a small image. Whenever
the process is killed or the power fails, these hold:

    every ``.dcm`` is complete          it gets its name after its bytes are on disk
    every image has its label           labels are on disk before the images of their batch get their names
    every image that was searched for text is listed as such, see `approval`, before it gets its name
    what is reported as stored is there `Store.put` returns after the names are on disk too
"""

import contextlib
import csv
import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from salus.client.data.approval import SearchedImages
from salus.client.data.dicom.deidentify import Clean
from salus.common.cells import read_cell, write_cell
from salus.common.errors import DataError
from salus.common.process import libc

LABELS = "labels.csv"
PARTIAL = ".partial"
Label = tuple[str, str]  # label and split


class Store:
    """A folder of de-identified images; one process at a time may have it open."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._labels = LabelFile(folder / LABELS)
        self._searched = SearchedImages(folder)

    def __enter__(self) -> "Store":
        for path in self._folder.glob(f"??/*{PARTIAL}"):  # of an import that was killed
            path.unlink(missing_ok=True)
        self._labels.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._labels.close()

    def put(self, batch: Sequence[tuple[Clean, Label | None]]) -> list[bool]:
        """Store images with their labels; return for each whether it is new.

        Guarantees: as the module says.

        Raises:
            DataError: the disk is full or the folder cannot be written.
        """
        keys = [f"{clean.name[:2]}/{clean.name}.dcm" for clean, _ in batch]
        fresh: dict[Path, bytes] = {}
        new = []
        for key, (clean, _) in zip(keys, batch, strict=True):
            path = self._folder / key
            new.append(path not in fresh and not path.exists())
            if new[-1]:
                fresh[path] = clean.data
        try:
            self._labels.put({key: label for key, (_, label) in zip(keys, batch, strict=True) if label is not None})
            done = {
                key: clean.blanked for key, (clean, _) in zip(keys, batch, strict=True) if clean.blanked is not None
            }
            self._searched.put(done)
            _write(self._folder, fresh)
        except OSError as problem:
            raise DataError(
                f"A de-identified image cannot be stored: {problem.strerror}.",
                remedy="Free disk space, then run the import again.",
            ) from None
        return new


def _write(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write complete files under their names, durably."""
    for path, data in files.items():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.with_suffix(PARTIAL).write_bytes(data)
    _settle(folder, [path.with_suffix(PARTIAL) for path in files])
    for path in files:
        path.with_suffix(PARTIAL).replace(path)
    _settle(folder, list({path.parent for path in files}))


def _settle(folder: Path, paths: Sequence[Path]) -> None:
    """Return once these files or folders are on disk."""
    if len(paths) > 1:
        with contextlib.suppress(AttributeError):  # not Linux
            handle = os.open(folder, os.O_RDONLY)
            try:  # one wait for all of them
                if libc().syncfs(ctypes.c_int(handle)) == 0:
                    return
            finally:
                os.close(handle)
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class LabelFile:
    """The store's own labels, one row per image; the newest row of an image counts, and a row truncated by a crash is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Label] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = {
                    row[0]: (read_cell(row[1]), read_cell(row[2]))
                    for row in csv.reader(file)
                    if len(row) == 3 and row[0] != "file"
                }

    def open(self) -> None:
        """Prepare for new rows."""
        self._rewrite()
        self._file = self._path.open("a", newline="", encoding="utf-8")

    def close(self) -> None:
        """Write the file anew, without rows that were replaced."""
        self._file.close()
        self._rewrite()

    def put(self, labels: Mapping[str, Label]) -> None:
        """Write the labels of images, on disk when this returns."""
        changed = {key: label for key, label in labels.items() if self._rows.get(key) != label}
        if changed:
            self._rows |= changed
            csv.writer(self._file).writerows(_cells(changed))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _rewrite(self) -> None:
        partial = self._path.with_suffix(PARTIAL)
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "label", "split"], *_cells(self._rows)])
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def _cells(rows: Mapping[str, Label]) -> Iterable[list[str]]:
    return ([key, *map(write_cell, row)] for key, row in rows.items())
