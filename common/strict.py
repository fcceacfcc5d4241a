"""Strict, frozen settings models whose errors address the author of the file.

One base class for job, site, server and policy files: unknown keys are errors that name the nearest known key, nothing
is coerced, nothing changes after parsing.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from salus import __version__
from salus.common.errors import SalusError
from salus.common.plain_errors import place_of, sentence_of
from salus.common.versions import UPGRADE, check_format

MOST_EXPLAINED = 1000  # mistakes; a description of each takes a thousand bytes
MAX_FILE_BYTES = 1_000_000  # a settings file is text written by hand; anything larger is a mistake or an attack


class Strict(BaseModel):
    """Frozen model: strict types, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    format_key: ClassVar[str] = "format"  # states the version of a document's format
    newest_format: ClassVar[int] = 0  # the newest that is read; 0 for a model that is not a document

    @classmethod
    def for_values(cls, values: Any) -> type[Self]:
        """Return the model that validates these plain values; another one where plug-ins add keys (`sections.Section`)."""
        return cls

    @classmethod
    def elsewhere(cls, key: str) -> str:
        """Return what must be stated for a key to be known, such as ``optimizer = "sgd"``; empty for a key of nowhere."""
        return ""


M = TypeVar("M", bound=Strict)


def parse_toml(model: type[M], text: str, *, error: type[SalusError], what: str) -> M:
    """Parse `text` as TOML into `model`.

    Args:
        error: the class to raise, which decides the exit code.
        what: the kind of file in the reader's words, such as ``job file``.

    Raises:
        error: not TOML, an unknown key (the nearest known one is named), a missing key or a wrong value.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise error(f"Expected the {what} to be TOML, but {problem}.", remedy="Correct that line.") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists within lists within lists
        raise error(
            f"Expected plain values in the {what}.", remedy="Use only text, numbers, lists and tables."
        ) from None
    return validate(model, values, error=error, what=what)


def load_toml(model: type[M], path: Path, *, error: type[SalusError], what: str) -> M:
    """Read and parse a TOML file; errors as in `parse_toml`, and for an unreadable file."""
    return parse_toml(model, read_text(path, error=error, what=what), error=error, what=what)


def load_json(model: type[M], path: Path, *, error: type[SalusError], what: str, most: int = MAX_FILE_BYTES) -> M:
    """Read a JSON file that a program wrote, of at most `most` bytes, into `model`; errors as in `parse_toml`."""
    try:
        values = json.loads(read_text(path, error=error, what=what, most=most))
    except (ValueError, RecursionError):
        raise error(f"Expected the {what} to be JSON.", remedy="It is damaged; take another copy of it.") from None
    return validate(model, values, error=error, what=what, received=True)


def read_text(path: Path, *, error: type[SalusError], what: str, most: int = MAX_FILE_BYTES) -> str:
    """Return the text of a file of at most `most` bytes, or raise `error`, which names the file without its folder."""
    try:
        if path.stat().st_size > most:
            raise error(f"Expected the {what} {path.name!r} to be at most {most} bytes.", remedy="Check the path.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise error(f"Cannot read the {what} {path.name or str(path)!r}: {reason}.", remedy="Check the path.") from None


def values_in(data: bytes) -> int:
    """Return a bound on the number of values in JSON text, which decides the memory that they take when they are parsed."""
    return 1 + sum(map(data.count, (b"[", b"{", b",", b":")))


def parse_json(data: bytes, most_bytes: int, most_values: int, *, error: type[SalusError], what: str) -> Any:
    """Return received JSON as plain values.

    Args:
        most_bytes, most_values: parsed values take up to a hundred times as much memory as their text, so more are not parsed.

    Raises:
        error: too large, or not JSON.
    """
    if len(data) > most_bytes or values_in(data) > most_values:
        raise error(
            f"Expected a {what} of at most {most_bytes} bytes and {most_values} values.",
            remedy="Both sides must run versions of Salus that work together.",
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise error(f"Expected a {what}.", remedy="Both sides must run the same version of Salus.") from None


def validate(
    model: type[M],
    values: Any,
    *,
    error: type[SalusError],
    what: str,
    received: bool = False,
    remedy: str = "Correct the file.",
) -> M:
    """Validate plain values (from TOML or JSON) into `model`; errors as in `parse_toml`.

    Args:
        received: whether a program wrote the values, maybe of another version: then an unknown key means that this side is
            too old.
        remedy: for values that somebody wrote.
    """
    key = model.format_key
    if model.newest_format and isinstance(values, dict) and (received or key in values):
        check_format(values.get(key), model.newest_format, what=what, error=error)
    try:
        # Validated as JSON: arrays become tuples, which strict Python mode would refuse.
        return model.model_validate_json(_to_json(values))
    except ValidationError as problems:
        _explain(model, values, problems, error=error, what=what, received=received, remedy=remedy)
    except (TypeError, ValueError, RecursionError):
        raise error(
            f"Expected plain values in the {what}.", remedy="Use only text, numbers, lists and tables."
        ) from None


def _to_json(values: Any) -> bytes:
    from salus.common.canonical import canonical_json

    return canonical_json(values)


def _explain(
    model: type[Strict],
    values: Any,
    problems: ValidationError,
    *,
    error: type[SalusError],
    what: str,
    received: bool,
    remedy: str,
) -> NoReturn:
    lines = []
    if received:
        remedy = "Ask the side that sent it to make it again."
    if problems.error_count() > MOST_EXPLAINED:
        raise error(f"The {what} is not valid: it has {problems.error_count()} mistakes.", remedy=remedy) from None
    found = problems.errors()
    if received:  # what the other side's version explains comes first
        found.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    for problem in found[:5]:
        place = place_of(problem["loc"])
        if problem["type"] == "extra_forbidden" and received:
            lines.append(f"Salus {__version__}, which reads it, does not know the key {place!r} and is too old")
            remedy = UPGRADE
        elif problem["type"] == "extra_forbidden":
            lines.append(
                f"unknown key {place!r} ({_hint(_model_at(model, values, problem['loc'][:-1]), problem['loc'][-1])})"
            )
        elif problem["type"] == "missing":
            lines.append(f"missing key {place!r}")
        else:
            lines.append(f"{place or 'the file'}: {sentence_of(problem)}")
    raise error(f"The {what} is not valid: " + "; ".join(lines) + ".", remedy=remedy) from None


def _hint(model: type[BaseModel] | None, key: int | str) -> str:
    """Return what the author of an unknown key may have meant."""
    known = [] if model is None else [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    owners = model.elsewhere(str(key)) if model is not None and issubclass(model, Strict) else ""
    if owners:
        return f"it is known only with {owners}"
    return f"did you mean {near[0]!r}?" if near else f"known keys here are {', '.join(sorted(known))}"


def _model_at(model: type[BaseModel], values: Any, location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model at `location` in `values`, through nested models, lists and optional values."""
    current: type[BaseModel] = model
    for part in location:
        values = _inside(values, part)
        field = current.model_fields.get(str(part))
        nested = current if field is None else _nested_model(field.annotation)  # without a field: an index of a list
        if nested is None:
            return None
        current = nested.for_values(values) if issubclass(nested, Strict) else nested
    return current


def _inside(values: Any, part: int | str) -> Any:
    try:
        return values[part]
    except (LookupError, TypeError):
        return None


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _nested_model(argument)
        if found is not None:
            return found
    return None
