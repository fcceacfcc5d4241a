"""Writes a package: a folder, and beside it a zip with the same files, the same bytes for the same contents."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from salus import __version__
from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, storage_error
from salus.common.files import replace_whole
from salus.common.identity import Identity, Signed
from salus.common.job import Job
from salus.common.package.files import Folder
from salus.common.package.layout import CONTEXT, MANIFEST, FileLine, Manifest, limit_of
from salus.common.roster import Roster, roster_hash

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip: equal contents give equal bytes
CHUNK = 2**20


def write_package(
    folder: Path,
    contents: Mapping[str, bytes | Callable[[Path], object]],
    *,
    job_id: str,
    job: Job,
    roster: Roster,
    signed_roster: Signed,
    consortium_key: bytes,
    coordinator: Identity,
    created: datetime,
) -> Manifest:
    """Write the folder of a package and ``<folder>.zip``; nothing is left of a package that could not be written.

    Args:
        folder: must not exist.
        contents: each file's bytes, or what writes the file.

    Raises:
        ConfigError: the folder or the zip exists, or a file is too large for a package.
        StorageError: they cannot be written.
    """
    archive = zip_beside(folder)
    if folder.exists() or archive.exists():
        raise ConfigError(f"{folder.name!r} or {archive.name!r} exists already.", remedy="Choose another name.")
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        lines = []
        for name in sorted(contents):
            content, path = contents[name], part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else content(path)
            lines.append(_line(name, path))
        manifest = Manifest(
            job_id=job_id,
            job_sha256=job.digest().hex(),
            roster_sha256=roster_hash(signed_roster),
            consortium=roster.consortium,
            consortium_key=consortium_key.hex(),
            created=created,
            salus=__version__,
            files=tuple(lines),
        )
        signed = Signed.seal(coordinator, CONTEXT, canonical_json(manifest.model_dump(mode="json")))
        (part / MANIFEST).write_bytes(signed.to_bytes())
        write_zip(part, archive)
        part.rename(folder)
    except OSError as problem:
        raise storage_error(problem) or problem from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def zip_beside(folder: Path) -> Path:
    """Return the zip that belongs to the folder of a package."""
    return folder.with_name(folder.name + ".zip")


def write_zip(folder: Path, archive: Path) -> None:
    """Write all files of a package's folder to a zip, completely or not at all."""
    names = sorted(Folder(folder).sizes)

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name in names:
                member = zipfile.ZipInfo(name, EPOCH)
                member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                member.file_size = (folder / name).stat().st_size
                with (folder / name).open("rb") as source, zipped.open(member, "w") as target:
                    shutil.copyfileobj(source, target, CHUNK)

    replace_whole(archive, write)


def _line(name: str, path: Path) -> FileLine:
    size, most = path.stat().st_size, limit_of(name)
    if most is None or size > most:
        raise ConfigError(
            f"The file {name} has {size} bytes, a package takes at most {most}.",
            remedy="Leave it out, or use a smaller model.",
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return FileLine(name=name, size=size, sha256=digest.hexdigest())
