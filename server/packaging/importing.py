"""A package taken in by a site, a coordinator or a desk: checked with the pinned key, then copied under names of our own."""

import shutil
from pathlib import Path

from salus.common.errors import ConfigError, storage_error
from salus.common.identity import unhex
from salus.common.kit import read_kit
from salus.common.package.checking import checked_package
from salus.common.package.layout import Manifest
from salus.common.trust import KIT, TRUST
from salus.privacy.records.package import Evidence, evidence_of

PACKAGES = "packages"
NAME_DIGITS = 16  # of the package's hash, which is the name of its folder


def pinned_key(folder: Path, kit: Path | None) -> bytes:
    """Return the consortium's key that is pinned in a member's folder, or that of a kit.

    Raises:
        ConfigError: neither, or both and they differ.
    """
    installed = folder / TRUST / KIT
    keys = [unhex(read_kit(path).consortium_key) for path in (installed, kit) if path is not None and path.exists()]
    if kit is not None and not kit.exists():
        raise ConfigError(f"Expected a kit in {kit.name!r}.", remedy="Check --kit.")
    if not keys:
        raise ConfigError(
            f"{folder.name!r} has joined no consortium, so no key is known with which to check a package.",
            remedy="Give a kit of the consortium with --kit.",
        )
    if len(set(keys)) > 1:
        raise ConfigError(
            f"The kit is of another consortium than the one that {folder.name!r} joined.", remedy="Leave out --kit."
        )
    return keys[0]


def import_package(path: Path, folder: Path, consortium_key: bytes) -> tuple[Path, Manifest, Evidence]:
    """Check a package and copy its files to ``packages/`` in a folder; returns where, with what was found.

    Raises:
        PackageError, ProtectionError: as in `checked_package` and `evidence_of`; nothing is copied then.
        StorageError: it cannot be written there.
    """
    with checked_package(path, consortium_key) as package:
        evidence = evidence_of(package)
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
            shutil.rmtree(target, ignore_errors=True)  # the same package, taken in before
            part.rename(target)
        except OSError as problem:
            raise storage_error(problem) or problem from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target, package.manifest, evidence
