"""Stages a scan in temporary tables until it is complete, so that a data set is registered in one short transaction."""

import itertools
import json
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from salus.client.data.identity import normalised
from salus.client.data.pseudonyms import literal_pseudonym, pseudonym
from salus.client.data.records import ISSUER, ImageRecord, Quarantined
from salus.client.data.schema import (
    IMAGES,
    QUARANTINE,
    STAGED,
    STAGED_IMAGES,
    STAGED_QUARANTINE,
    STAGED_TARGETS,
    TARGETS,
)
from salus.client.data.sealing import Sealer

BATCH = 5000


def stage(
    connection: sa.Connection, name: str, found: Iterable[ImageRecord | Quarantined], secret: bytes, sealer: Sealer
) -> tuple[int, int]:
    """Write a scan into temporary tables of this connection, in batches, and return the number of rows of each kind.

    Args:
        name: of the data set.
        secret: of the site, for pseudonyms.
    """
    images = bad = 0
    STAGED.create_all(connection)
    for batch in _batched(found):
        records = [item for item in batch if isinstance(item, ImageRecord)]
        rows = [_image(name, item, secret, sealer) for item in records]
        targets = [row for place, item in enumerate(records, start=images + 1) for row in _targets(name, place, item)]
        refused = [_refused(name, item, sealer) for item in batch if isinstance(item, Quarantined)]
        for table, values in ((STAGED_IMAGES, rows), (STAGED_TARGETS, targets), (STAGED_QUARANTINE, refused)):
            if values:
                connection.execute(table.insert(), values)
        connection.commit()
        images, bad = images + len(rows), bad + len(refused)
    return images, bad


def noting_former(
    found: Iterable[ImageRecord | Quarantined], secret: bytes, former: set[tuple[str, str]]
) -> Iterator[ImageRecord | Quarantined]:
    """Yield the same items, and note patients for whom earlier versions computed another pseudonym, with the present one.

    For them padding and Unicode composition were significant, see `identity`; what they have spent must not be forgotten.
    """
    for item in found:
        if isinstance(item, ImageRecord) and not item.pseudonymous and item.patient != normalised(item.patient):
            pair = (pseudonym(secret, "patient", item.patient), literal_pseudonym(secret, "patient", item.patient))
            former.add(pair)
        yield item


def publish(connection: sa.Connection) -> None:
    """Move what was staged into the catalogue's own tables, within the transaction of the caller."""
    taken = sa.func.coalesce(sa.func.max(IMAGES.c.id), 0)
    before = int(connection.scalar(sa.select(taken)) or 0)
    _move(connection, STAGED_IMAGES, IMAGES, {"id": sa.literal_column("rowid") + before})
    _move(connection, STAGED_TARGETS, TARGETS, {"image": STAGED_TARGETS.c.image + before})
    _move(connection, STAGED_QUARANTINE, QUARANTINE, {})


def _move(
    connection: sa.Connection, staged: sa.Table, table: sa.Table, changed: dict[str, sa.ColumnElement[int]]
) -> None:
    values = {column.name: column for column in staged.columns} | changed
    rows = sa.select(*values.values()).select_from(staged).order_by(sa.text("rowid"))
    connection.execute(table.insert().from_select(list(values), rows))


def _image(name: str, item: ImageRecord, secret: bytes, sealer: Sealer) -> dict[str, str]:
    return {
        "dataset": name,
        "patient": item.patient if item.pseudonymous else pseudonym(secret, "patient", item.patient),
        "study": pseudonym(secret, "study", item.study),
        "key": sealer.seal(item.key),
        "label": item.label,
        "split": item.split,
        "sha256": item.sha256,
        "info": json.dumps(_info(item, secret), sort_keys=True),
        "pixel_sha256": item.pixel_sha256,
    }


def _info(item: ImageRecord, secret: bytes) -> dict[str, str | float | int | list[float]]:
    """Return a record's facts; the issuer of the identifier is only ever compared, so that its beginning as a pseudonym does."""
    issuer = str(item.info.get(ISSUER, ""))
    return {**item.info, ISSUER: pseudonym(secret, ISSUER, issuer)[:8]} if issuer else item.info


def _targets(name: str, place: int, item: ImageRecord) -> Iterator[dict[str, object]]:
    for target, found in item.targets.items():
        amounts = json.dumps(found.amounts)  # in the order of the class numbers
        yield {
            "dataset": name,
            "image": place,
            "name": target,
            "kind": found.kind,
            "amounts": amounts,
            "outside": found.outside,
        }


def _refused(name: str, item: Quarantined, sealer: Sealer) -> dict[str, str]:
    seal = sealer.seal
    return {"dataset": name, "key": seal(item.key), "reason": item.reason, "detail": seal(item.detail)}


def _batched(found: Iterable[ImageRecord | Quarantined]) -> Iterator[list[ImageRecord | Quarantined]]:
    items = iter(found)
    while batch := list(itertools.islice(items, BATCH)):
        yield batch
