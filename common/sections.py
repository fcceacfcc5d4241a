"""Sections of a job file whose keys depend on what they name: each plug-in brings its own settings.

`[training]` with ``optimizer = "sgd"`` has the keys of `Training` and of SGD. The model of such a section is assembled from
the registries, plug-ins of other packages included, so an unknown key is still an error that names the nearest known one.
Keys are flat: no two plug-ins of one section may have the same key.
"""

import functools
import importlib
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

from pydantic import (
    GetCoreSchemaHandler,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
)
from pydantic_core import CoreSchema, core_schema

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, JobError
from salus.common.registry import Registry, own_settings
from salus.common.strict import Strict

Plugin = tuple[str, type[Strict] | None]  # a name and the settings that it owns
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class Section(Strict):
    """A section with plug-ins; an instance always belongs to the model that was assembled for the plug-ins that it names.

    Class attributes of the section, and of the settings of a plug-in that has plug-ins of its own:

    - ``plugins``: for each key that names a plug-in, or a list of them, its registry, or where that is as
      ``module:attribute``. The registry's module imports its plug-ins' settings and these import the section, so the section
      cannot import the registry;
    - ``omitted``: for a key that may be left out, the plug-ins that may then be used: all their keys are known;
    - ``nothing``: the name that stands for no plug-in.

    >>> from salus.common.job import Training
    >>> Training(optimizer="sgd").momentum
    0.9
    >>> type(Training(optimizer="sgd")).__name__
    'Training[sgd]'
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {}
    omitted: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    nothing: ClassVar[str] = ""
    assembled: ClassVar[bool] = False

    def __new__(cls, **values: Any) -> Self:
        """Return an instance of the assembled model."""
        return super().__new__(cls.for_values(values))

    def __hash__(self) -> int:
        return hash(canonical_json(self.model_dump(mode="json")))

    def changed(self, **values: Any) -> Self:
        """Return this section with other values, validated; keys of plug-ins that are no longer named are dropped.

        >>> from salus.common.job import Training
        >>> type(Training(optimizer="sgd", momentum=0.5).changed(optimizer="adam")).__name__
        'Training[adam]'
        """
        base = type(self).__bases__[-1] if self.assembled else type(self)
        kept = {name: getattr(self, name) for name in self.model_fields_set} | values
        model = cast(type[Self], base).for_values(kept)
        return model(**{name: value for name, value in kept.items() if name in model.model_fields or name in values})

    @classmethod
    def elsewhere(cls, key: str) -> str:
        """Return the plug-ins of this section that have a key; empty if none has it."""
        base = cls.__bases__[-1] if cls.assembled else cls
        fields, found = cast(type[Strict], base).model_fields, list[str]()
        for naming, place in vars(base).get("plugins", {}).items():
            registry = registry_at(place)
            for name in registry.names():
                own = own_settings(registry.get(name))
                if own is not None and key in own.model_fields:
                    several = takes_several(fields[naming].annotation)
                    found.append(f'{naming} = ["{name}"]' if several else f'{naming} = "{name}"')
        return " or ".join(found)

    @classmethod
    def for_values(cls, values: Any) -> type[Self]:
        """Return the model for these values.

        Raises:
            JobError: a name that is not registered.
            ConfigError: two plug-ins with the same key.
        """
        if cls.assembled or not isinstance(values, Mapping):
            return cls
        return cast(type[Self], assemble(cls, tuple(_chosen(cls, values))))


class _Plugged:
    """Validates a field with the model that was assembled for its values."""

    def __get_pydantic_core_schema__(self, source: type[Section], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(values: Any, inner: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
            if isinstance(values, Section) or not isinstance(values, Mapping):
                return inner(values)
            model = source.for_values(values)
            if info.mode == "json":  # read again as JSON, where a list may become a tuple
                return model.model_validate_json(canonical_json(values))
            return model.model_validate(values)

        return core_schema.with_info_wrap_validator_function(validate, handler(source))


T = TypeVar("T", bound=Section)
Plugged = Annotated[T, SerializeAsAny(), _Plugged()]  # the type of a field that holds a section


def _chosen(section: type[Section], values: Mapping[str, Any]) -> Iterator[Plugin]:
    """Yield the name and the settings, if any, of every plug-in that the values name, plug-ins of plug-ins included."""
    pending: list[type[Strict]] = [section]
    while pending:
        owner = pending.pop(0)
        for key, place in vars(owner).get("plugins", {}).items():
            for name in _names(owner, key, values):
                if name == section.nothing or not re.fullmatch(NAME, name):
                    continue  # no plug-in, or a value that the section itself refuses
                settings = own_settings(registry_at(place).get(name, error=JobError))
                yield name, settings
                if settings is not None:
                    pending.append(settings)


def _names(owner: type[Strict], key: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    field = owner.model_fields[key]
    name = values.get(key, None if field.is_required() else field.default)
    if name is None:
        return tuple(vars(owner).get("omitted", {}).get(key, ()))
    names = (name,) if isinstance(name, str) else name if isinstance(name, list | tuple) else ()
    return tuple(name for name in names if isinstance(name, str))


def takes_several(annotation: object) -> bool:
    """Return whether a key of this type names a list of plug-ins."""
    return typing.get_origin(annotation) is tuple


def registry_at(place: str | Registry) -> Registry:
    """Return a registry, imported if it is given as ``module:attribute``."""
    if isinstance(place, Registry):
        return place
    module, _, attribute = place.partition(":")
    return cast(Registry, getattr(importlib.import_module(module), attribute))


@functools.cache
def assemble(section: type[Section], chosen: tuple[Plugin, ...]) -> type[Section]:
    """Return the model with the keys of a section and of these plug-ins; the same choice gives the same model.

    Raises:
        ConfigError: two of them have the same key. A plug-in may narrow the key that names it.
    """
    owners = {key: f"the section {section.__name__}" for key in section.model_fields if key not in section.plugins}
    bases: list[type[Strict]] = []
    for name, settings in chosen:
        if settings is None or settings in bases:
            continue
        inherited = section.model_fields if issubclass(settings, section) else {}
        for key in settings.model_fields:
            if key in inherited and settings.model_fields[key].annotation == inherited[key].annotation:
                continue
            if key in owners:
                raise ConfigError(
                    f"Both {owners[key]} and the plug-in {name!r} define the key {key!r}.",
                    remedy="Rename the key of the plug-in.",
                )
            if key not in section.plugins:
                owners[key] = f"the plug-in {name!r}"
        bases.append(settings)
    label = f"{section.__name__}[{','.join(name for name, _ in chosen)}]"
    model = create_model(label, __base__=(*bases, section), __doc__=section.__doc__, __module__=section.__module__)
    section_model = cast(type[Section], model)
    section_model.assembled = True
    section_model.__hash__ = Section.__hash__  # type: ignore[method-assign]  # pydantic's fails with a table among the values
    return section_model
