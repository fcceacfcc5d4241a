"""A log that does not grow for ever: full files are renamed, and the oldest are deleted.

    events.jsonl              the newest lines
    events.000000001.jsonl    older ones; the number of its first line, which it keeps

A line has the same number for as long as it exists, whatever is deleted before it.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

SEGMENT_BYTES = 16 * 2**20
SEGMENTS = 10  # older files that are kept
TRIES = 5  # to read a log that is renamed meanwhile


def rotate(path: Path, more: int, most: int = SEGMENT_BYTES, keep: int = SEGMENTS) -> None:
    """Rename a log if another line would make it too long, and delete its oldest files beyond `keep`.

    Args:
        more: bytes of the line.

    Raises:
        OSError: the folder cannot be written to; the log is as it was.
    """
    try:
        if path.stat().st_size + more <= most:
            return
    except FileNotFoundError:
        return
    before = segments(path)
    first = before[-1][0] + _lines(before[-1][1]) if before else 1
    path.rename(path.with_name(f"{path.stem}.{first:09d}{path.suffix}"))
    for _, old in segments(path)[:-keep]:
        old.unlink(missing_ok=True)


def segments(path: Path) -> list[tuple[int, Path]]:
    """Return the older files of a log, oldest first, each with the number of its first line."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{9}}){re.escape(path.suffix)}")
    found = ((name.fullmatch(other.name), other) for other in path.parent.glob(f"{path.stem}.*{path.suffix}"))
    return sorted((int(match[1]), other) for match, other in found if match is not None)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a log with their numbers, oldest first; nothing if there is none."""
    number = 1
    for first, file in _opened(path):
        number = first or number
        for line in file.splitlines():
            yield number, line
            number += 1


def _opened(path: Path) -> list[tuple[int, bytes]]:
    """Return the contents of all files, each with the number of its first line, or 0 for the newest file."""
    for _ in range(TRIES):
        before = segments(path)
        read = []
        with contextlib.suppress(FileNotFoundError):
            for first, old in before:
                read.append((first, old.read_bytes()))
        if len(read) == len(before):
            with contextlib.suppress(FileNotFoundError):
                read.append((0, path.read_bytes()))
            if segments(path) == before:
                break
    return read


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
