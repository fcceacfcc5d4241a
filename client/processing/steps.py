"""Which transforms are applied: named on the command line, in a file, or those of a job."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salus.common.errors import ConfigError
from salus.common.examples import Array
from salus.common.job import MEASURED, TaskSettings, TransformSettings, load_job
from salus.common.strict import Strict, validate
from salus.common.transforms import TRANSFORMS, kind_of

MAX_STEPS = 64
MAX_FILE_BYTES = 2**20
STEP = re.compile(r"([a-z0-9-]+)(?::(.*))?")


def from_words(words: Sequence[str]) -> list[Strict]:
    """Return the settings of steps such as ``median:radius=2`` or ``compress:codec="jpeg-2000",ratio=10``.

    A value is TOML; text needs no quotes.

    Raises:
        ConfigError: not of this form, an unknown kind or key, or a wrong value.
    """
    return _checked([_of_word(word) for word in words])


def from_file(path: Path) -> list[Strict]:
    """Return the settings of the tables ``[[transforms]]`` of a TOML file; errors as in `from_words`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"The file {path.name!r} is larger than {MAX_FILE_BYTES} bytes.", remedy="Shorten it.")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        raise ConfigError(f"Expected a TOML file at {path.name!r}.", remedy="Correct the file.") from None
    entries = values.get("transforms")
    if set(values) != {"transforms"} or not isinstance(entries, list):
        raise ConfigError(
            f"Expected only tables [[transforms]] in {path.name!r}.",
            remedy='Write one for each step, beginning with kind = "median" or another kind.',
        )
    return _checked(entries)


def from_job(path: Path) -> list[Strict]:
    """Return a training job's transforms without the random ones; raises ConfigError for a job without any."""
    steps: list[Strict] = [step for step in load_job(path).task.transforms if not kind_of(step).random]
    if not steps:
        raise ConfigError(
            f"The job {path.name!r} has no transform that is not random.", remedy="Name steps with --step."
        )
    return _checked([step.model_dump(mode="json") for step in steps])


def settings_for(values: Array) -> TaskSettings:
    """Return the section of a job in which steps find the dimensions of an image ``[channels, *spatial]``."""
    return TaskSettings(
        kind=MEASURED, model=MEASURED, dataset="images", classes=(), shape=values.shape[1:], channels=len(values)
    )


def _of_word(word: str) -> Mapping[str, Any]:
    found = STEP.fullmatch(word.strip())
    if found is None:
        raise ConfigError(
            f"Expected a step as KIND or KIND:KEY=VALUE,..., got {word!r}.", remedy="Write for example median:radius=2."
        )
    kind, rest = found.groups()
    values: dict[str, Any] = {"kind": kind}
    for part in re.split(r",(?![^\[]*\])", rest) if rest else []:
        key, sign, text = part.partition("=")
        if not sign or not re.fullmatch(r"\s*[a-z0-9_]+\s*", key):
            raise ConfigError(f"Expected KEY=VALUE in the step {kind!r}, got {part!r}.", remedy="Correct --step.")
        values[key.strip()] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _checked(entries: Sequence[Any]) -> list[Strict]:
    if not 1 <= len(entries) <= MAX_STEPS:
        raise ConfigError(f"Expected 1 to {MAX_STEPS} steps, got {len(entries)}.", remedy="Name steps with --step.")
    steps: list[Strict] = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
            raise ConfigError(f"Expected a kind in step {place + 1}.", remedy='Write for example kind = "median".')
        kind = _kind_of(entry["kind"])
        model = TransformSettings.for_values(entry)
        what = f"step {place + 1} ({entry['kind']})"
        step = validate(model, dict(entry), error=ConfigError, what=what, remedy="Correct the step.")
        if kind.random or kind.fitted or kind.rows:
            raise ConfigError(
                f"The step {entry['kind']!r} is for training only and cannot process single images.",
                remedy="Leave it out.",
            )
        steps.append(step)
    return steps


def _kind_of(name: str) -> Any:
    return TRANSFORMS.get(name, error=ConfigError)
