"""Registries of named implementations, which other packages can extend through entry points.

A registry maps a name to ``module:attribute`` and imports it on first use, so that `salus --help` does not load torch. A
site adds its own through an entry-point group; names that Salus defines cannot be replaced.

A registered class or function may own settings: its attribute ``Settings`` is a `Strict` model whose keys become keys of the
section of the job file that names it (`sections.Section`). It reads them with `settings_of`.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from salus.common.errors import ConfigError, JobError, SalusError
from salus.common.strict import Strict

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Strict)


class Registry:
    """A closed set of names plus one entry-point group.

    Args:
        refused: names that people look for and that cannot be offered, each with the reason and what to use instead.
    """

    def __init__(
        self, what: str, group: str, builtin: Mapping[str, str], refused: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self.what = what
        self.group = group
        self._builtin = dict(builtin)
        self._refused = dict(refused or {})

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
        if name in self._refused:
            problem, remedy = self._refused[name]
            raise error(problem, remedy=remedy)
        if name in self._builtin:
            return self._builtin[name]
        for point in entry_points(group=self.group, name=name):
            return f"{point.module}:{point.attr}"
        raise error(
            f"Expected the {self.what} to be one of {', '.join(self.names())}; got {name!r}.",
            remedy=f"Correct the name, or install the package that provides it (entry-point group {self.group!r}).",
        )


def with_settings(settings: type[Strict]) -> Callable[[F], F]:
    """Return a decorator that declares the settings that a registered function owns; a class has an attribute instead.

    >>> class Width(Strict):
    ...     width: int = 16
    >>> @with_settings(Width)
    ... def build(task): ...
    >>> own_settings(build)().width
    16
    """

    def declare(function: F) -> F:
        function.Settings = settings  # type: ignore[attr-defined]
        return function

    return declare


def own_settings(plugin: object) -> type[Strict] | None:
    """Return the settings that a registered object owns, or None."""
    found: type[Strict] | None = getattr(plugin, "Settings", None)
    return found


def settings_of(section: Strict, settings: type[S]) -> S:
    """Return a section of a job as the settings of one of its plug-ins, so that their keys are typed.

    Raises:
        JobError: the section was not assembled for that plug-in.
    """
    if not isinstance(section, settings):
        raise JobError(
            f"Expected a section of a job with the keys {', '.join(settings.model_fields) or '(none)'}, "
            f"got {type(section).__name__}.",
            remedy="Build the section with the kind, model, optimizer, strategy or protection that has these keys.",
        )
    return section
