"""The catalogue's table of annotations: which image has which, and what is in them."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from salus.client.data.schema import TARGETS
from salus.client.data.targets import Target
from salus.common.declaration import TargetKind

READ_AT_ONCE = 5000


@dataclass
class TargetSummary:
    """One annotation of a data set, in counts.

    Args:
        images: how many have it.
        empty: how many of them show none of its structures.
        cut: how many masks reach beyond their image.
        amounts: sum by structure or column over all images, see `Target`.
    """

    kind: TargetKind
    images: int = 0
    empty: int = 0
    cut: int = 0
    amounts: dict[str, float] = field(default_factory=dict)


def kinds_by_image(connection: sa.Connection, dataset: str) -> dict[int, Mapping[str, TargetKind]]:
    """Return the kind of each annotation by its name, by image; an image without annotations is absent."""
    query = sa.select(TARGETS.c.image, TARGETS.c.name, TARGETS.c.kind).where(TARGETS.c.dataset == dataset)
    rows = connection.execute(query.order_by(TARGETS.c.image, TARGETS.c.name))
    shared: dict[tuple[Any, ...], Mapping[str, TargetKind]] = {}  # a million images have few different combinations
    found: dict[int, Mapping[str, TargetKind]] = {}
    for image, group in itertools.groupby(rows, key=lambda row: row.image):
        pairs = tuple((row.name, row.kind) for row in group)
        found[image] = shared.setdefault(pairs, dict(pairs))
    return found


def streamed(connection: sa.Connection, dataset: str) -> Iterator[tuple[int, dict[str, Target]]]:
    """Yield each annotated image's annotations in the order of the images, without holding all of them."""
    query = sa.select(TARGETS).where(TARGETS.c.dataset == dataset).order_by(TARGETS.c.image, TARGETS.c.name)
    rows = connection.execution_options(yield_per=READ_AT_ONCE).execute(query)
    for image, group in itertools.groupby(rows, key=lambda row: row.image):
        yield image, {row.name: Target(row.kind, json.loads(row.amounts), row.outside) for row in group}


COUNTS = sa.text(
    """SELECT name, kind, COUNT(*) AS images, SUM(outside > 0) AS cut,
    SUM(NOT EXISTS (SELECT 1 FROM json_each(targets.amounts) AS one WHERE one.value > 0)) AS empty
    FROM targets WHERE dataset = :dataset GROUP BY name, kind ORDER BY name"""
)
AMOUNTS = sa.text(
    """SELECT name, one.key AS structure, SUM(one.value) AS amount
    FROM targets, json_each(targets.amounts) AS one WHERE dataset = :dataset
    GROUP BY name, one.key ORDER BY name, MIN(one.id), one.key"""
)


def summarised(connection: sa.Connection, dataset: str) -> dict[str, TargetSummary]:
    """Return the counts of each annotation by its name; summed by the database, as a job asks for them when it starts."""
    found = {
        row.name: TargetSummary(row.kind, row.images, row.empty, row.cut)
        for row in connection.execute(COUNTS, {"dataset": dataset})
    }
    for row in connection.execute(AMOUNTS, {"dataset": dataset}) if found else ():
        found[row.name].amounts[row.structure] = row.amount
    return found
