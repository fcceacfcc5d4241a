"""Partitioners divide data among virtual sites, always by patient. To add one: a file here, a test, a line below.

A partitioner is a function; its own settings are declared with `with_settings`, and its first may be given by its value alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salus.common.errors import ConfigError
from salus.common.registry import Registry, own_settings
from salus.common.strict import Strict, parse_toml, validate


@dataclass(frozen=True)
class Patient:
    """What a partitioner may use: one label (of the patient's first sample) and a group such as the hospital."""

    key: str
    label: str
    group: str


class Partitioner(Protocol):
    """Returns the site of each patient, counted from 0; `settings` are its own."""

    def __call__(
        self, patients: Sequence[Patient], sites: int, settings: Strict, rng: np.random.Generator
    ) -> list[int]: ...


PARTITIONERS = Registry(
    "partition",
    "salus.partitioners",
    {
        "dirichlet": "salus.simulations.partitioners.dirichlet:partition",
        "group": "salus.simulations.partitioners.group:partition",
        "iid": "salus.simulations.partitioners.iid:partition",
        "quantity": "salus.simulations.partitioners.quantity:partition",
    },
)


def divide(spec: str, patients: Sequence[Patient], sites: int, seed: int) -> list[list[str]]:
    """Return the patient keys of each site.

    Args:
        spec: a partitioner's name and, after a colon, its settings, such as ``dirichlet:0.5``; see `settings_in`.

    Guarantees: every patient is at exactly one site, and every site has at least one patient.

    Raises:
        ConfigError: an unknown partitioner, settings that it does not have, or fewer patients than sites.
    """
    name, _, argument = spec.partition(":")
    partition: Partitioner = PARTITIONERS.get(name, error=ConfigError)
    if len(patients) < sites:
        raise ConfigError(
            f"Expected at least {sites} patients for {sites} sites, found {len(patients)}.", remedy="Use fewer sites."
        )
    settings = settings_in(name, own_settings(partition), argument)
    owners = partition(patients, sites, settings, np.random.default_rng(seed))
    parts: list[list[str]] = [[] for _ in range(sites)]
    for patient, owner in zip(patients, owners, strict=True):
        parts[owner].append(patient.key)
    for part in parts:  # an empty site gets one patient of the largest, so that every site can take part
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def settings_in(name: str, own: type[Strict] | None, argument: str) -> Strict:
    """Return a partitioner's settings from the text after its name: ``key=value`` parted by commas, or its first key's value.

    Args:
        own: the settings that the partitioner owns, or None.

    Raises:
        ConfigError: an unknown key (the nearest one is named), a wrong value, or an argument where none is used.
    """
    model = own or Strict
    if not argument:
        return validate(model, {}, error=ConfigError, what=f"partition {name!r}")
    if not model.model_fields:
        raise ConfigError(f"Expected nothing after {name!r}, got {argument!r}.", remedy=f"Write --partition {name}.")
    first = next(iter(model.model_fields))
    lines = argument.replace(",", "\n") if "=" in argument else f"{first} = {argument}"
    return parse_toml(model, lines, error=ConfigError, what=f"partition {name!r}")
