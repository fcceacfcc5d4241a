"""Stages a scan in temporary tables until it is complete, so that a data set is registered in one short transaction."""

import itertools
import json
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from salus.client.data.pseudonyms import pseudonym
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.schema import STAGED, STAGED_IMAGES, STAGED_QUARANTINE
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
        rows = [_image(name, item, secret, sealer) for item in batch if isinstance(item, ImageRecord)]
        refused = [_refused(name, item, sealer) for item in batch if isinstance(item, Quarantined)]
        for table, values in ((STAGED_IMAGES, rows), (STAGED_QUARANTINE, refused)):
            if values:
                connection.execute(table.insert(), values)
        connection.commit()
        images, bad = images + len(rows), bad + len(refused)
    return images, bad


def _image(name: str, item: ImageRecord, secret: bytes, sealer: Sealer) -> dict[str, str]:
    return {
        "dataset": name,
        "patient": item.patient if item.pseudonymous else pseudonym(secret, "patient", item.patient),
        "study": pseudonym(secret, "study", item.study),
        "key": sealer.seal(item.key),
        "label": item.label,
        "split": item.split,
        "sha256": item.sha256,
        "info": json.dumps(item.info, sort_keys=True),
        "pixel_sha256": item.pixel_sha256,
    }


def _refused(name: str, item: Quarantined, sealer: Sealer) -> dict[str, str]:
    seal = sealer.seal
    return {"dataset": name, "key": seal(item.key), "reason": item.reason, "detail": seal(item.detail)}


def _batched(found: Iterable[ImageRecord | Quarantined]) -> Iterator[list[ImageRecord | Quarantined]]:
    items = iter(found)
    while batch := list(itertools.islice(items, BATCH)):
        yield batch
