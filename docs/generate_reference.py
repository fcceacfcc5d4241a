"""Write `docs/reference.md`: every key of a job file, a site's policy and the two settings files, from the models themselves.

A key's meaning comes from its class's docstring (``Args``), the note from the comment beside its default, and the permitted
values from its type. A test fails when the page is out of date.

    python docs/generate_reference.py
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from salus.client.config import SiteConfig
from salus.client.policy import Policy
from salus.common.explain import NOTHING, summary_of, words_of
from salus.common.job import Job
from salus.common.registry import Registry, own_settings
from salus.common.sections import Section, registry_at
from salus.server.config import ServerConfig

PAGE = Path(__file__).with_name("reference.md")
FILES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("A job file", "Signed by the coordinator and checked by every site. Required keys have no default.", Job),
    ("policy.toml", "A site operator's rules. What is not allowed here does not run.", Policy),
    (
        "site.toml",
        "A site's settings for speed and operation; decode_without_sandbox is the only one that concerns security.",
        SiteConfig,
    ),
    ("server.toml", "The coordinator's settings.", ServerConfig),
)


ENCODER = "encoder"  # its settings are those of the model of that name, which are in the list already


def page() -> str:
    """Return the whole page."""
    parts = ["# Every setting\n", "Written by `python docs/generate_reference.py` from the code; do not edit it here."]
    for title, text, model in FILES:
        parts += [f"\n## {title}\n", text]
        parts += _section(model, "")
    return "\n".join(parts) + "\n"


def _section(
    model: type[BaseModel], place: str, without: frozenset[str] = frozenset(), within: tuple[Registry, ...] = ()
) -> list[str]:
    words, nested = words_of(model), []
    rows = []
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        if name in without:
            continue
        inner, many = _model_in(field.annotation)
        if inner is not None:
            nested.append((inner, f"{place.strip('[]')}.{name}".strip("."), many))
            continue
        shape = schema["properties"][name]
        default = "required" if field.is_required() else f"`{_toml(field.get_default(call_default_factory=True))}`"
        said = words.get(name, NOTHING)
        meaning, reason = (_cell(_upper(part.rstrip("."))) for part in (said.meaning, said.reason))
        rows.append(f"| `{name}` | {_type(shape)} | {default} | {meaning} | {reason} |")
    lines = []
    if place:
        lines.append(f"\n### {place}\n")
        lines.append(_cell(summary_of(model)))
    if rows:
        lines += ["\n| key | value | default | meaning | note |", "|---|---|---|---|---|", *rows]
    for inner, name, many in nested:
        lines += _section(inner, f"[[{name}]]" if many else f"[{name}]", within=within)
    return lines + _plugins(model, place, within)


def _plugins(model: type[BaseModel], place: str, within: tuple[Registry, ...]) -> list[str]:
    """Return a table for each plug-in that adds keys of its own to a section, plug-ins of plug-ins included.

    Args:
        within: registries whose plug-ins are being listed; one that names another of its own kind is not followed again.
    """
    lines: list[str] = []
    base = model.model_fields if issubclass(model, Section) else {}
    for key, place_of in vars(model).get("plugins", {}).items():
        if key == ENCODER:
            continue
        registry = registry_at(place_of)
        if registry in within:
            continue
        for name in registry.names():
            settings = own_settings(registry.get(name))
            if settings is not None and any(own not in base for own in settings.model_fields):
                title = f'{place} with {key} = "{name}"'
                lines += _section(settings, title, without=frozenset(base), within=(*within, registry))
    return lines


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the settings model in an annotation, and whether there may be several of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = getattr(annotation, "__args__", ())
    for argument in arguments:
        inner, _ = _model_in(argument)
        if inner is not None:
            return inner, getattr(annotation, "__origin__", None) is tuple
    return None, False


def _type(shape: dict[str, Any]) -> str:
    if "enum" in shape:
        return " or ".join(f"`{_toml(value)}`" for value in shape["enum"])
    if "const" in shape:
        return f"`{_toml(shape['const'])}`"
    if "anyOf" in shape:
        return " or ".join(_type(part) for part in shape["anyOf"] if part.get("type") != "null")
    kind = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "object": "table",
    }.get(str(shape.get("type")), "list")
    limits = [
        f"{word} {shape[key]:g}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in shape
    ]
    if "maxLength" in shape:
        limits.append(f"up to {shape['maxLength']} characters")
    return f"{kind} {' '.join(limits)}".strip()


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
