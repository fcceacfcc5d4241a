"""The JSON Schema of a job file, for editors: every key of every plug-in that is installed, with its meaning and default.

A section has its own keys, and for each key that names a plug-in a choice between tables, one for each set of plug-ins with
the same keys, so an editor offers and accepts exactly the keys that Salus accepts. The choices are independent of each other:
all pairs of a task and a model would be thousands of tables. Rules between keys are left to `salus job validate`.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from salus.common.explain import NOTHING, summary_of, words_of
from salus.common.job import Job
from salus.common.registry import own_settings
from salus.common.sections import Plugin, Section, assemble, registry_at, takes_several
from salus.common.strict import Strict

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Choice:
    """Plug-ins that together give one set of keys: one that a key of a section names, and those that it names in turn.

    Args:
        names: for each key that names a plug-in, the names that are possible here; without names the key must be left out.
        listed: for each key that names a list of plug-ins, the names that are possible; keys of theirs are never required.
        needed: those of `names` that must be stated.
        chosen: the settings, for `sections.assemble`.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    listed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    chosen: tuple[Plugin, ...] = ()


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file, draft 2020-12."""
    schema = _explained(Job, Job.model_json_schema())
    definitions = schema["$defs"]
    models = dict.fromkeys(_models_in(Job))
    for model in models:
        whole = _explained(model, definitions[model.__name__])
        if issubclass(model, Section):
            choices = {
                key: [_table(model, choice) for choice in _choices(model, key, (Choice(),))] for key in model.plugins
            }
            for table in itertools.chain(*choices.values()):
                definitions |= {name: part for name, part in table.pop("$defs", {}).items() if name not in definitions}
            definitions[model.__name__] = _with_choices(whole, choices)
    return {"$schema": DIALECT, "title": "A job of Salus", **schema}


def _choices(owner: type[Strict], key: str, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Return every choice of the plug-ins that a key of a section or of a plug-in names, added to each of the choices before."""
    default = None if owner.model_fields[key].is_required() else owner.model_fields[key].default
    registry = registry_at(vars(owner)["plugins"][key])
    if takes_several(owner.model_fields[key].annotation):
        every = tuple((name, own_settings(registry.get(name))) for name in registry.names())
        return tuple(
            replace(choice, listed={**choice.listed, key: tuple(registry.names())}, chosen=choice.chosen + every)
            for choice in choices
        )
    groups: dict[type[Strict] | None, list[str]] = {}
    for name in registry.names():
        groups.setdefault(own_settings(registry.get(name)), []).append(name)
    extended: list[Choice] = []
    for choice in choices:
        absent = vars(owner).get("omitted", {}).get(key, ())
        if absent or (default is not None and default == getattr(owner, "nothing", None)):
            settings = tuple((name, own_settings(registry.get(name))) for name in absent)
            extended.append(replace(choice, names={**choice.names, key: ()}, chosen=choice.chosen + settings))
        for own, names in groups.items():
            needed = choice.needed if default in names else choice.needed | {key}
            chosen = (*choice.chosen, (names[0], own))
            wider: tuple[Choice, ...] = (Choice({**choice.names, key: tuple(names)}, choice.listed, needed, chosen),)
            if own is not None:
                for inner in vars(own).get("plugins", {}):
                    wider = _choices(own, inner, wider)
            extended += wider
    return tuple(extended)


def _table(section: type[Section], choice: Choice) -> dict[str, Any]:
    """Return the schema of all keys of the section under one choice."""
    model = assemble(section, choice.chosen)
    table = _explained(model, model.model_json_schema())
    properties = table["properties"]
    for key, names in choice.names.items():
        if names:
            properties[key] = {**properties[key], "enum": list(names)}
        else:
            properties[key] = {"not": {}}  # only a table without the key is this choice
    required = {*table.get("required", [])} - set(choice.names)
    for key, names in choice.listed.items():
        properties[key] = {**properties[key], "items": {"enum": list(names)}}
        required &= set(section.model_fields)
    table["required"] = sorted(required | {key for key in choice.names if key in choice.needed})
    table["title"] = ", ".join("/".join(names) for names in choice.names.values() if names) or section.__name__
    return table


def _with_choices(whole: dict[str, Any], choices: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the schema of a section: keys that no plug-in changes once, the others in the tables of their choice."""
    naming, left = set(choices), set(whole["properties"]) - set(choices)
    for key, tables in choices.items():
        same = {
            name
            for name in whole["properties"]
            if all(_meaning(table, name) == _meaning(whole, name) for table in tables)
        }
        outside = (same | naming) - {key}
        left -= set(whole["properties"]) - outside
        for table in tables:
            del table["additionalProperties"]
            table["properties"] = {name: part for name, part in table["properties"].items() if name not in outside}
            table["required"] = [name for name in table["required"] if name not in outside]
    return {
        "description": whole["description"],
        "type": "object",
        "properties": {name: part for name, part in whole["properties"].items() if name in left},
        "required": [name for name in whole.get("required", []) if name in left],
        "allOf": [{"oneOf": tables} for tables in choices.values()],
        "unevaluatedProperties": False,
    }


def _meaning(table: Mapping[str, Any], name: str) -> object:
    return table["properties"].get(name), name in table.get("required", [])


def _explained(model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    """Give each key of a model's schema its meaning and reason; pydantic's titles and internal docstrings are dropped."""
    words = words_of(model)
    schema["description"] = summary_of(model)
    for name, found in schema.get("properties", {}).items():
        found.pop("title", None)
        if found.get("default", NOTHING) is None or isinstance(found.get("default"), dict):
            del found["default"]  # TOML has no null, and a table is not a value on one line
        said = words.get(name, NOTHING)
        text = f"{said.meaning.rstrip('.')}. {said.reason[:1].upper()}{said.reason[1:]}".strip(" .")
        if text:
            found["description"] = f"{text}."
    return schema


def _models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the settings models nested in a model."""
    for found in model.model_fields.values():
        yield from _models_of(found.annotation)


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        yield from _models_in(annotation)
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_of(argument)
