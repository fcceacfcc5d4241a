"""Packages that only some families of tasks need: extras of the installation, imported when they are used."""

import importlib
from typing import Any

from salus.common.errors import ConfigError

WITH_TORCH = ("torch", "monai", "opacus", "einops", "nibabel", "gdcm", "pynetdicom")  # see deploy/bundle.py


def needs_torch() -> ConfigError:
    """Return the error of a step that computes with networks where torch is not installed."""
    return ConfigError(
        "This installation has no torch, so it cannot build or run networks.",
        remedy="Run this command where Salus is installed in full: pip install salus",
    )


def error_of(missing: ModuleNotFoundError) -> ConfigError | None:
    """Return the error in plain words of a module that a coordinator's installation lacks; None for any other."""
    return needs_torch() if (missing.name or "").partition(".")[0] in WITH_TORCH else None


def required(module: str, *, extra: str, what: str) -> Any:
    """Return a module of an extra.

    Args:
        module: its full name, such as ``skimage.restoration``.
        extra: name of the extra in `pyproject.toml`.
        what: what needs it, as the beginning of a sentence, such as ``The transform "clahe"``.

    Raises:
        ConfigError: it is not installed, or too incomplete to be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{what} needs the package {package}, which is not installed.", remedy=f"Run: pip install 'salus[{extra}]'"
        ) from None
