"""The consortium's key with which a package is checked: pinned where a member joined, or from a kit."""

from pathlib import Path

from salus.common.errors import ConfigError
from salus.common.identity import unhex
from salus.common.kit import read_kit
from salus.common.trust import KIT, TRUST


def pinned_key(folder: Path, kit: Path | None) -> bytes:
    """Return the consortium's key that is pinned in a member's folder, or that of a kit.

    Raises:
        ConfigError: neither, or both and they differ.
    """
    installed = folder / TRUST / KIT
    if kit is not None and not kit.exists():
        raise ConfigError(f"Expected a kit in {kit.name!r}.", remedy="Check --kit.")
    keys = [unhex(read_kit(path).consortium_key) for path in (installed, kit) if path is not None and path.exists()]
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
