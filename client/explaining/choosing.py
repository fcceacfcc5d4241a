"""The methods that an operator asks for, with their settings."""

import json
from collections.abc import Sequence
from typing import Any

from salus.client.explaining.methods import METHODS
from salus.client.explaining.subject import Method
from salus.common.errors import ConfigError
from salus.common.strict import validate


def chosen_methods(names: str, pairs: Sequence[str]) -> tuple[dict[str, Method], dict[str, str]]:
    """Return methods by name, and those that cannot be built here, with what to do.

    Args:
        names: separated by commas; empty for all.
        pairs: settings as ``method.key=value``.

    Raises:
        ConfigError: an unknown method or setting, or a named method, or every one, whose package is not installed.
    """
    asked = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    given = _settings(pairs)
    found: dict[str, Method] = {}
    missing: dict[str, str] = {}
    for name in given:
        if asked and name not in asked:
            raise ConfigError(f"There are settings of {name!r}, which is not among --methods.", remedy="Add it there.")
        METHODS.reference(name)
    for name in asked or METHODS.names():
        kind = METHODS.get(name)
        own = validate(kind.Settings, given.get(name, {}), error=ConfigError, what=f"settings of {name}")
        try:
            found[name] = kind(own)
        except ConfigError as problem:
            if asked:
                raise
            missing[name] = f"{problem.problem.rstrip('.')}. {problem.remedy}"
    if not found:
        raise ConfigError("No method can be used here.", remedy="Run: pip install 'salus[explain]'")
    return found, missing


def _settings(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        name, dot, key = path.partition(".")
        if not (equals and dot and name and key):
            raise ConfigError(
                f"Expected --set method.key=value, got {pair!r}.", remedy="Write --set occlusion.windows=12"
            )
        found.setdefault(name, {})[key] = _plain(text)
    return found


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
