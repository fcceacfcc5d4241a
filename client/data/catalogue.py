"""The catalogue: which patients, studies and images a site has registered, in SQLite; pseudonyms instead of identifiers.

Patient and study keys are replaced by HMAC-SHA256 under the site's own secret before they are stored, so the catalogue
tells patients apart without naming them. A data set is added in one transaction: after a crash it is there whole or not at all.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from salus.client.data.pseudonyms import pseudonym
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.base import Source, SourceOptions
from salus.common.errors import DataError
from salus.common.sqlite import open_sqlite
from salus.common.strict import validate

METADATA = sa.MetaData()
DATASETS = sa.Table(
    "datasets",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("root", sa.String, nullable=False),
    sa.Column("options", sa.String, nullable=False),
    sa.Column("added_at", sa.String, nullable=False),
)
IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("patient", sa.String, nullable=False),
    sa.Column("study", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("split", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("info", sa.String, nullable=False),
)
QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
)


@dataclass(frozen=True)
class CataloguedImage:
    """One usable sample; patient and study are pseudonyms."""

    patient: str
    study: str
    key: str
    label: str
    split: str
    sha256: str


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
    """

    def __init__(self, path: Path, secret: bytes) -> None:
        self._engine = open_sqlite(path)
        self._secret = secret
        METADATA.create_all(self._engine)

    def pseudonym(self, kind: str, value: str) -> str:
        """Return the stable pseudonym of an identifier, 32 hex digits."""
        return pseudonym(self._secret, kind, value)

    def add(self, name: str, kind: str, root: Path, options: SourceOptions) -> DatasetSummary:
        """Scan a source and register it under `name`; errors as in `add_records`."""
        if name in self.names():  # said before hours of reading, and checked again when writing
            raise _taken(name)
        source = open_source(kind, root, options)
        return self.add_records(name, kind, root, options, source.scan())

    def add_records(
        self, name: str, kind: str, root: Path, options: SourceOptions, found: Iterable[ImageRecord | Quarantined]
    ) -> DatasetSummary:
        """Register what a scan found, in one transaction.

        Raises:
            DataError: the name is taken, or nothing usable was found.
        """
        images, bad = [], []
        for item in found:  # before the transaction: a scan may take hours, and others must be able to write
            if isinstance(item, Quarantined):
                bad.append({"dataset": name, "key": item.key, "reason": item.reason, "detail": item.detail})
            else:
                images.append(self._row(name, item))
        if not images:
            raise DataError(
                f"Found no usable sample; {len(bad)} file(s) could not be used{_reasons(bad)}.",
                remedy="Check the path, the kind of data and the label file.",
            )
        with self._engine.begin() as connection:
            if connection.execute(sa.select(DATASETS.c.name).where(DATASETS.c.name == name)).first():
                raise DataError(
                    f"A data set {name!r} is registered already.", remedy="Choose another name or remove it."
                )
            connection.execute(
                DATASETS.insert().values(
                    name=name,
                    kind=kind,
                    root=str(root.resolve()),
                    options=options.model_dump_json(),
                    added_at=datetime.now(UTC).isoformat(),
                )
            )
            connection.execute(IMAGES.insert(), images)
            if bad:
                connection.execute(QUARANTINE.insert(), bad)
        return self.summary(name)

    def _row(self, name: str, item: ImageRecord) -> dict[str, str]:
        return {
            "dataset": name,
            "patient": item.patient if item.pseudonymous else self.pseudonym("patient", item.patient),
            "study": self.pseudonym("study", item.study),
            "key": item.key,
            "label": item.label,
            "split": item.split,
            "sha256": item.sha256,
            "info": json.dumps(item.info, sort_keys=True),
        }

    def remove(self, name: str) -> None:
        """Forget a data set; the files stay where they are."""
        with self._engine.begin() as connection:
            for table, column in ((IMAGES, IMAGES.c.dataset), (QUARANTINE, QUARANTINE.c.dataset)):
                connection.execute(table.delete().where(column == name))
            if connection.execute(DATASETS.delete().where(DATASETS.c.name == name)).rowcount == 0:
                raise self._unknown(name)

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
        return [CataloguedImage(*row) for row in rows]

    def source(self, name: str) -> Source:
        """Open the source of a data set."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
        if row is None:
            raise self._unknown(name)
        options = validate(SourceOptions, json.loads(row.options), error=DataError, what="data set's options")
        return open_source(row.kind, Path(row.root), options)

    def quarantined(self, name: str) -> list[Quarantined]:
        """Return every file that could not be used."""
        columns = (QUARANTINE.c.key, QUARANTINE.c.reason, QUARANTINE.c.detail)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(QUARANTINE.c.dataset == name).order_by(QUARANTINE.c.id))
            return [Quarantined(*row) for row in rows]

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
                    sa.func.count(sa.distinct(IMAGES.c.sha256)),
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
                Path(dataset.root).name,
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


def _reasons(bad: list[dict[str, str]]) -> str:
    reasons = sorted({row["reason"] for row in bad})
    return f" ({', '.join(reasons)})" if reasons else ""


def _taken(name: str) -> DataError:
    return DataError(f"A data set {name!r} is registered already.", remedy="Choose another name or remove it.")
