"""A package taken in by a site, a coordinator or a desk: checked with the pinned key, then copied under names of our own."""

import shutil
from pathlib import Path

from salus.common.errors import storage_error
from salus.common.package.checking import checked_package
from salus.common.package.files import changed
from salus.common.package.layout import Manifest
from salus.privacy.records.package import Evidence, evidence_of
from salus.privacy.records.release import endorsements_of, release_of

PACKAGES = "packages"
NAME_DIGITS = 16  # of the package's hash, which is the name of its folder


def import_package(path: Path, folder: Path, consortium_key: bytes) -> tuple[Path, Manifest, Evidence]:
    """Check a package and copy its files to ``packages/`` in a folder; returns where, with what was found.

    Raises:
        PackageError, ProtectionError: as in `checked_package` and `evidence_of`; nothing is copied then.
        StorageError: it cannot be written there.
    """
    with checked_package(path, consortium_key) as package:
        evidence = evidence_of(package)
        release_of(package, evidence)
        endorsements_of(package)
        target = folder / PACKAGES / package.sha256[:NAME_DIGITS]
        part = target.with_name(target.name + ".part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            for name in package.files.sizes:
                place = part / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    for chunk in package.files.chunks(name):
                        file.write(chunk)
            with checked_package(part, consortium_key) as copied:  # the original may have changed meanwhile
                if copied.sha256 != package.sha256:
                    raise changed("it changed while it was copied")
            shutil.rmtree(target, ignore_errors=True)  # the same package, taken in before
            part.rename(target)
        except OSError as problem:
            raise storage_error(problem) or problem from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target, package.manifest, evidence
