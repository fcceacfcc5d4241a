"""Adds to a package what somebody signs about the whole of it; its other files stay as they are."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from salus.common.errors import storage_error
from salus.common.files import replace_whole, write_whole
from salus.common.package.files import Files, opened
from salus.common.package.layout import is_added
from salus.common.package.writing import EPOCH, write_zip, zip_beside


def add_files(path: Path, added: Mapping[str, bytes]) -> None:
    """Add files to a package, replacing earlier ones of the same names; the zip beside a folder is written again.

    Raises:
        PackageError: it is no package.
        StorageError: it cannot be written; a zip is then unchanged.
    """
    assert all(map(is_added, added))  # Safe because callers add only what is signed by itself.
    try:
        if path.is_dir():
            for name, data in added.items():
                (path / name).parent.mkdir(exist_ok=True)
                write_whole(path / name, data)
            if zip_beside(path).exists():
                write_zip(path, zip_beside(path))
            return
        with opened(path) as files:
            replace_whole(path, lambda beside: _copy(files, added, beside))
    except OSError as problem:
        raise storage_error(problem) or problem from None


def _copy(files: Files, added: Mapping[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted({*files.sizes, *added}):
            member = zipfile.ZipInfo(name, EPOCH)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            if name in added:
                archive.writestr(member, added[name])
                continue
            member.file_size = files.sizes[name]
            with archive.open(member, "w") as target:
                for part in files.chunks(name):
                    target.write(part)
