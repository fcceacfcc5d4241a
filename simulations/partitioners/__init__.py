"""Partitioners divide data among virtual sites, always by patient. To add one: a file here, a test, a line below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salus.common.errors import ConfigError
from salus.common.registry import Registry


@dataclass(frozen=True)
class Patient:
    """What a partitioner may use: one label (of the patient's first sample) and a group such as the hospital."""

    key: str
    label: str
    group: str


class Partitioner(Protocol):
    """Returns the site of each patient, counted from 0."""

    def __call__(
        self, patients: Sequence[Patient], sites: int, argument: str, rng: np.random.Generator
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
        spec: a partitioner's name and, after a colon, its argument, such as ``dirichlet:0.5``.

    Guarantees: every patient is at exactly one site, and every site has at least one patient.

    Raises:
        ConfigError: an unknown partitioner, an argument it cannot use, or fewer patients than sites.
    """
    name, _, argument = spec.partition(":")
    partition: Partitioner = PARTITIONERS.get(name, error=ConfigError)
    if len(patients) < sites:
        raise ConfigError(
            f"Expected at least {sites} patients for {sites} sites, found {len(patients)}.", remedy="Use fewer sites."
        )
    owners = partition(patients, sites, argument, np.random.default_rng(seed))
    parts: list[list[str]] = [[] for _ in range(sites)]
    for patient, owner in zip(patients, owners, strict=True):
        parts[owner].append(patient.key)
    for part in parts:  # an empty site gets one patient of the largest, so that every site can take part
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def number(argument: str, default: float, name: str) -> float:
    """Return a partitioner's argument as a positive number; raises ConfigError for anything else."""
    try:
        value = float(argument) if argument else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(
            f"Expected a positive number after {name}:, got {argument!r}.", remedy=f"Write {name}:{default}."
        )
    return value
