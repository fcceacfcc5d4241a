"""Registries of named implementations, which other packages can extend through entry points.

A registry maps a name to ``module:attribute`` and imports it on first use, so that `salus --help` does not load torch. A
site adds its own through an entry-point group; names that Salus defines cannot be replaced.
"""

import functools
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from salus.common.errors import ConfigError, SalusError


class Registry:
    """A closed set of names plus one entry-point group."""

    def __init__(self, what: str, group: str, builtin: Mapping[str, str]) -> None:
        self.what = what
        self.group = group
        self._builtin = dict(builtin)

    def names(self) -> list[str]:
        """Return all known names, sorted."""
        return sorted({*self._builtin, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str, *, error: type[SalusError] = ConfigError) -> Any:
        """Return the object with this name.

        Raises:
            error: the name is not registered; the message lists the known names.
        """
        module, _, attribute = self.reference(name, error=error).partition(":")
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))

    def reference(self, name: str, *, error: type[SalusError] = ConfigError) -> str:
        """Return ``module:attribute`` for this name without importing it; errors as in `get`."""
        if name in self._builtin:
            return self._builtin[name]
        for point in entry_points(group=self.group, name=name):
            return f"{point.module}:{point.attr}"
        raise error(
            f"Expected the {self.what} to be one of {', '.join(self.names())}; got {name!r}.",
            remedy=f"Correct the name, or install the package that provides it (entry-point group {self.group!r}).",
        )
