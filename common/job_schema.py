"""The JSON Schema of a job file, for editors: every key of every plug-in that is installed, with its meaning and default.

A section with plug-ins becomes a choice between complete tables, one for each set of plug-ins with the same keys, so an
editor offers and accepts exactly the keys that Salus accepts. Rules between keys are left to `salus job validate`.
"""

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
    """Plug-ins of a section that together give one set of keys.

    Args:
        names: for each key that names a plug-in, the names that are possible here; without names the key is left out.
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
    for section in (model for model in models if issubclass(model, Section)):
        tables = []
        for choice in _choices(section, (Choice(),)):
            table = _table(section, choice)
            definitions |= {name: part for name, part in table.pop("$defs", {}).items() if name not in definitions}
            tables.append(table)
        definitions[section.__name__] = {"description": summary_of(section), "oneOf": tables}
    for model in models:
        if not issubclass(model, Section):
            _explained(model, definitions[model.__name__])
    return {"$schema": DIALECT, "title": "A job of Salus", **schema}


def _choices(owner: type[Strict], choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Return every choice of the plug-ins of a section or of a plug-in, added to each of the choices before."""
    for key, place in vars(owner).get("plugins", {}).items():
        default = None if owner.model_fields[key].is_required() else owner.model_fields[key].default
        registry = registry_at(place)
        if takes_several(owner.model_fields[key].annotation):
            every = tuple((name, own_settings(registry.get(name))) for name in registry.names())
            choices = tuple(
                replace(choice, listed={**choice.listed, key: tuple(registry.names())}, chosen=choice.chosen + every)
                for choice in choices
            )
            continue
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
                wider = Choice({**choice.names, key: tuple(names)}, choice.listed, needed, chosen)
                extended += [wider] if own is None else _choices(own, (wider,))
        choices = tuple(extended)
    return choices


def _table(section: type[Section], choice: Choice) -> dict[str, Any]:
    """Return the schema of the table of one choice."""
    model = assemble(section, choice.chosen)
    table = _explained(model, model.model_json_schema())
    properties = table["properties"]
    for key, names in choice.names.items():
        if names:
            properties[key] = {**properties[key], "enum": list(names)}
        else:
            del properties[key]
    required = {*table.get("required", [])} - set(choice.names)
    for key, names in choice.listed.items():
        properties[key] = {**properties[key], "items": {"enum": list(names)}}
        required &= set(section.model_fields)
    table["required"] = sorted(required | {key for key in choice.names if key in choice.needed})
    table["title"] = ", ".join("/".join(names) for names in choice.names.values() if names) or section.__name__
    return table


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
