"""The catalogue: which patients, studies and images a site has registered, in SQLite; pseudonyms instead of identifiers.

Patient and study keys are replaced by HMAC-SHA256 under the site's own secret before they are stored, and paths are sealed
under it, so the catalogue tells patients apart without naming them. A data set is added in one transaction: after a crash it
is there whole or not at all.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from salus.client.data.migrations import migrate
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.schema import (
    DATASETS,
    IMAGES,
    QUARANTINE,
    STAGED,
    STAGED_IMAGES,
    STAGED_QUARANTINE,
)
from salus.client.data.sealing import Sealer
from salus.client.data.sources import open_source
from salus.client.data.sources.base import Source, SourceOptions
from salus.common.errors import DataError
from salus.common.sqlite import open_sqlite
from salus.common.strict import validate

BATCH = 5000


@dataclass(frozen=True, slots=True)
class CataloguedImage:
    """One usable sample; patient and study are pseudonyms."""

    patient: str
    study: str
    key: str
    label: str
    split: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the readiness report counts of one sample: no identifier, no path."""

    patient: str
    label: str
    pixel_sha256: str
    info: dict[str, Any]


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set holds, in counts."""

    name: str
    kind: str
    root: str
    patients: int
    studies: int
    images: int
    labels: dict[str, int]
    quarantined: dict[str, int]
    duplicates: int


class Catalogue:
    """All data sets of one site.

    Args:
        path: the SQLite file, created if absent.
        secret: the site's secret for pseudonyms, at least 16 bytes.
        isolated: decode files in a child process, as every real site does.
    """

    def __init__(self, path: Path, secret: bytes, *, isolated: bool = False) -> None:
        self._engine = open_sqlite(path)
        self._secret, self._isolated = secret, isolated
        self._sealer = Sealer(secret, "catalogue")
        migrate(self._engine, self._sealer.seal)

    def pseudonym(self, kind: str, value: str) -> str:
        """Return the stable pseudonym of an identifier, 32 hex digits."""
        return pseudonym(self._secret, kind, value)

    def add(self, name: str, kind: str, root: Path, options: SourceOptions) -> DatasetSummary:
        """Scan a source and register it under `name`; errors as in `add_records`."""
        if name in self.names():  # said before hours of reading, and checked again when writing
            raise _taken(name)
        source = open_source(kind, root, options, isolated=self._isolated)
        return self.add_records(name, kind, root, options, source.scan())

    def add_records(
        self,
        name: str,
        kind: str,
        root: Path,
        options: SourceOptions,
        found: Iterable[ImageRecord | Quarantined],
        *,
        replace: bool = False,
    ) -> DatasetSummary:
        """Register what a scan found, in one transaction.

        Args:
            replace: take the place of a data set of this name, in the same transaction.

        Raises:
            DataError: the name is taken, or nothing usable was found.
        """
        with self._engine.connect() as connection:
            # A scan may take hours and find a million images: they wait in a temporary table, so that neither memory nor the
            # file's lock is held meanwhile.
            images, bad = self._stage(connection, name, found)
            if not images:
                reasons = sorted(connection.scalars(sa.select(STAGED_QUARANTINE.c.reason).distinct()))
                listed = f" ({', '.join(reasons)})" if reasons else ""
                raise DataError(
                    f"Found no usable sample; {bad} file(s) could not be used{listed}.",
                    remedy="Check the path, the kind of data and the label file.",
                )
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if replace:
                self._forget(connection, name)
            elif connection.execute(sa.select(DATASETS.c.name).where(DATASETS.c.name == name)).first():
                raise _taken(name)
            seal = self._sealer.seal
            row = {
                "name": name,
                "kind": kind,
                "root": seal(str(root.resolve())),
                "options": seal(options.model_dump_json()),
            }
            connection.execute(DATASETS.insert().values(**row, added_at=datetime.now(UTC).isoformat()))
            for staged, table in ((STAGED_IMAGES, IMAGES), (STAGED_QUARANTINE, QUARANTINE)):
                names = [column.name for column in staged.columns]
                connection.execute(table.insert().from_select(names, sa.select(staged).order_by(sa.text("rowid"))))
            connection.commit()
        return self.summary(name)

    def _stage(
        self, connection: sa.Connection, name: str, found: Iterable[ImageRecord | Quarantined]
    ) -> tuple[int, int]:
        """Write a scan into temporary tables of this connection, in batches, and return how many of each kind."""
        images = bad = 0
        STAGED.create_all(connection)
        for batch in _batched(found):
            rows = [self._row(name, item) for item in batch if isinstance(item, ImageRecord)]
            refused = [
                {
                    "dataset": name,
                    "key": self._sealer.seal(item.key),
                    "reason": item.reason,
                    "detail": self._sealer.seal(item.detail),
                }
                for item in batch
                if isinstance(item, Quarantined)
            ]
            for table, values in ((STAGED_IMAGES, rows), (STAGED_QUARANTINE, refused)):
                if values:
                    connection.execute(table.insert(), values)
            connection.commit()
            images, bad = images + len(rows), bad + len(refused)
        return images, bad

    def _row(self, name: str, item: ImageRecord) -> dict[str, str]:
        return {
            "dataset": name,
            "patient": item.patient if item.pseudonymous else self.pseudonym("patient", item.patient),
            "study": self.pseudonym("study", item.study),
            "key": self._sealer.seal(item.key),
            "label": item.label,
            "split": item.split,
            "sha256": item.sha256,
            "info": json.dumps(item.info, sort_keys=True),
            "pixel_sha256": item.pixel_sha256,
        }

    def remove(self, name: str) -> None:
        """Forget a data set; the files stay where they are."""
        with self._engine.begin() as connection:
            if self._forget(connection, name) == 0:
                raise self._unknown(name)

    @staticmethod
    def _forget(connection: sa.Connection, name: str) -> int:
        for table in (IMAGES, QUARANTINE):
            connection.execute(table.delete().where(table.c.dataset == name))
        return connection.execute(DATASETS.delete().where(DATASETS.c.name == name)).rowcount

    def names(self) -> list[str]:
        """Return the names of all data sets."""
        with self._engine.connect() as connection:
            return list(connection.scalars(sa.select(DATASETS.c.name).order_by(DATASETS.c.name)))

    def images(self, name: str) -> list[CataloguedImage]:
        """Return every usable sample in a stable order; raises DataError for an unknown data set."""
        columns = (IMAGES.c.patient, IMAGES.c.study, IMAGES.c.key, IMAGES.c.label, IMAGES.c.split, IMAGES.c.sha256)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(IMAGES.c.dataset == name).order_by(IMAGES.c.id)).all()
        if not rows:
            raise self._unknown(name)
        open_ = self._sealer.open
        return [CataloguedImage(row.patient, row.study, open_(row.key), *row[3:]) for row in rows]

    def facts(self, name: str) -> Iterator[ImageFacts]:
        """Yield what is known of every usable sample, in the order of `images`, without holding all of them."""
        columns = (IMAGES.c.patient, IMAGES.c.label, IMAGES.c.pixel_sha256, IMAGES.c.info)
        with self._engine.connect() as connection:
            rows = connection.execution_options(yield_per=BATCH).execute(
                sa.select(*columns).where(IMAGES.c.dataset == name).order_by(IMAGES.c.id)
            )
            for row in rows:
                yield ImageFacts(row.patient, row.label, row.pixel_sha256, json.loads(row.info))

    def source(self, name: str) -> Source:
        """Open the source of a data set."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
        if row is None:
            raise self._unknown(name)
        options = validate(
            SourceOptions, json.loads(self._sealer.open(row.options)), error=DataError, what="data set's options"
        )
        return open_source(row.kind, Path(self._sealer.open(row.root)), options, isolated=self._isolated)

    def reading(self, name: str) -> str:
        """Return how a data set is read, its kind and options, as one text for comparing."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
        if row is None:
            raise self._unknown(name)
        return f"{row.kind} {self._sealer.open(row.options)}"

    def quarantined(self, name: str) -> list[Quarantined]:
        """Return every file that could not be used."""
        columns = (QUARANTINE.c.key, QUARANTINE.c.reason, QUARANTINE.c.detail)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(QUARANTINE.c.dataset == name).order_by(QUARANTINE.c.id))
            open_ = self._sealer.open
            return [Quarantined(open_(row.key), row.reason, open_(row.detail)) for row in rows]

    def summary(self, name: str) -> DatasetSummary:
        """Return the counts of a data set; raises DataError for an unknown one."""
        mine = IMAGES.c.dataset == name
        with self._engine.connect() as connection:
            dataset = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
            if dataset is None:
                raise self._unknown(name)
            counts = connection.execute(
                sa.select(
                    sa.func.count(sa.distinct(IMAGES.c.patient)),
                    sa.func.count(sa.distinct(IMAGES.c.study)),
                    sa.func.count(),
                    sa.func.count(
                        sa.distinct(sa.func.coalesce(sa.func.nullif(IMAGES.c.pixel_sha256, ""), IMAGES.c.sha256))
                    ),
                ).where(mine)
            ).one()
            labels = connection.execute(sa.select(IMAGES.c.label, sa.func.count()).where(mine).group_by(IMAGES.c.label))
            bad = connection.execute(
                sa.select(QUARANTINE.c.reason, sa.func.count())
                .where(QUARANTINE.c.dataset == name)
                .group_by(QUARANTINE.c.reason)
            )
            return DatasetSummary(
                name,
                dataset.kind,
                Path(self._sealer.open(dataset.root)).name,
                *counts[:3],
                labels={label: count for label, count in labels},
                quarantined={reason: count for reason, count in bad},
                duplicates=counts[2] - counts[3],
            )

    def _unknown(self, name: str) -> DataError:
        known = ", ".join(self.names()) or "none"
        return DataError(
            f"No data set {name!r} is registered here (registered: {known}).", remedy="Register it: salus dataset add."
        )


def _batched(found: Iterable[ImageRecord | Quarantined]) -> Iterator[list[ImageRecord | Quarantined]]:
    items = iter(found)
    while batch := list(itertools.islice(items, BATCH)):
        yield batch


def _taken(name: str) -> DataError:
    return DataError(f"A data set {name!r} is registered already.", remedy="Choose another name or remove it.")
