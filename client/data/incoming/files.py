"""The files of an import: what a source yields, and the sources on this machine, a folder and a zip."""

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.sources.accompanying import accompanies, is_archive
from salus.common.errors import DataError, UnreadableImage

MAX_ZIP_MEMBERS = 1_000_000
MAX_ZIP_RATIO = 200  # DICOM compresses about 3 to 1; 42.zip a hundred million to 1
ARCHIVE = UnreadableImage("archive", "an archive within a folder or archive is not opened")


@dataclass(frozen=True)
class Incoming:
    """One file of a source.

    Args:
        name: as the source calls it, the UID of an object of a PACS; used for labels, and stored only sealed.
        data: its bytes, or the reason why they could not be read.
        study: the UID of its study, so that what is stored is not fetched again; empty if unknown.
        prompt: whether a sender waits until the file is stored, which must be before the next file is asked for.
    """

    name: str
    data: bytes | UnreadableImage
    study: str = ""
    prompt: bool = False


def from_folder(root: Path, left_out: Counter[str] | None = None) -> Iterator[Incoming]:
    """Yield every regular file below `root`, except files that are not images by their name; links are not followed.

    Args:
        left_out: counts what is not yielded, by the reason.
    """
    left_out = Counter() if left_out is None else left_out
    unlisted: list[Path] = []
    for path in _below(root, unlisted):
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            continue
        reason = "link" if stat.S_ISLNK(mode) else _not_an_image(path) if stat.S_ISREG(mode) else "special file"
        if reason:
            left_out[reason] += 1
        else:
            yield Incoming(path.relative_to(root).as_posix(), ARCHIVE if is_archive(path.name) else _read(path))
    for path in unlisted:
        problem = UnreadableImage("unreadable", "the folder cannot be listed")
        yield Incoming(f"{path.relative_to(root).as_posix()}/", problem)


def _below(root: Path, unlisted: list[Path]) -> list[Path]:
    """Return everything below a folder, sorted; folders that cannot be listed are added to `unlisted`."""
    walk = os.walk(root, onerror=lambda problem: unlisted.append(Path(os.fsdecode(problem.filename))))
    return sorted(Path(folder) / name for folder, folders, names in walk for name in (*folders, *names))


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return stat.S_IFREG  # reading it fails too, and is counted


def _not_an_image(path: Path) -> str:
    """Return by which name or ending a file is known not to be an image; empty if it may be one."""
    return (path.suffix.lower() or path.name.upper()) if accompanies(path.name) else ""


def _read(path: Path) -> bytes | UnreadableImage:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return UnreadableImage("too-large", f"more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError:
        return UnreadableImage("unreadable", "the file cannot be read")


def from_zip(path: Path, left_out: Counter[str] | None = None) -> Iterator[Incoming]:
    """Yield every member of a zip, read in memory; names of members are never used as paths.

    Args:
        left_out: as in `from_folder`.

    Raises:
        DataError: not a zip, or too many members.
    """
    left_out = Counter() if left_out is None else left_out
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        raise DataError(f"Expected a zip in {path.name!r}.", remedy="Check the path.") from None
    with archive:
        members = archive.infolist()
        if len(members) > MAX_ZIP_MEMBERS:
            raise DataError(
                f"Expected at most {MAX_ZIP_MEMBERS} members in the zip, got {len(members)}.", remedy="Split the zip."
            )
        for member in members:
            if member.is_dir():
                continue
            if reason := _not_an_image(Path(member.filename)):
                left_out[reason] += 1
            else:
                name = member.filename
                yield Incoming(name, ARCHIVE if is_archive(name) else _member(archive, member))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | UnreadableImage:
    if member.file_size > MAX_FILE_BYTES or member.file_size > MAX_ZIP_RATIO * max(1, member.compress_size):
        return UnreadableImage("zip-bomb", "a member expands beyond its limits")
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)  # the header may be wrong; not a byte more is expanded
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError):
        return UnreadableImage("damaged", "a member of the zip cannot be read")
    except Exception:  # zlib.error and whatever other decompressors raise
        return UnreadableImage("damaged", "a member of the zip cannot be read")
    return (
        data
        if len(data) <= member.file_size
        else UnreadableImage("zip-bomb", "a member is larger than its header declares")
    )
