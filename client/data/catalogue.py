"""The catalogue: which patients, studies and images a site has registered, in SQLite; pseudonyms instead of identifiers.

Patient and study keys are replaced by HMAC-SHA256 under the site's own secret before they are stored, and paths are sealed
under it, so the catalogue distinguishes patients without naming them. A data set is added in one transaction: after a crash
it is either complete or absent.
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from salus.client.data.approval import Approvals, awaiting
from salus.client.data.declaration import FEW_PATIENTS, Declarations, Proposal, propose
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.merging import Merges, apply, rename
from salus.client.data.migrations import migrate
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.records import ImageFacts, ImageRecord, Quarantined, Sample
from salus.client.data.remedies import nothing_usable
from salus.client.data.schema import DATASETS, IMAGES, QUARANTINE, STAGED_QUARANTINE, TARGETS
from salus.client.data.sealing import Sealer
from salus.client.data.sources import open_source
from salus.client.data.sources.base import Source
from salus.client.data.sources.settings import SourceOptions, settings_for, stored_settings
from salus.client.data.split import Splits, most_held_out
from salus.client.data.staging import BATCH, noting_former, publish, stage
from salus.client.data.summaries import DatasetSummary, summary_of
from salus.client.data.target_table import kinds_by_image, streamed
from salus.client.data.troubles import Troubles
from salus.client.data.uses import Uses
from salus.client.data.withdrawals import Withdrawals, none_left
from salus.common.declaration import Declaration, TargetKind
from salus.common.errors import DataError
from salus.common.job_statistics import Name
from salus.common.sqlite import open_sqlite

NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, slots=True)
class CataloguedImage:
    """One usable sample; patient and study are pseudonyms.

    Args:
        targets: kinds of its annotations by name.
    """

    patient: str
    study: str
    key: str
    label: str
    split: str
    sha256: str
    targets: Mapping[str, TargetKind] = field(default_factory=dict)


class Catalogue:
    """All data sets of one site.

    Args:
        path: the SQLite file, created if absent.
        secret: the site's secret for pseudonyms, at least 16 bytes.
        decoding: decode files in a sandboxed child process, as every real site does; None for trusted files only.

    Attributes:
        declarations: what is public about each data set.
        troubles: current problems with a data set.
        merges: identifiers that name one patient.
        approvals: data sets that wait for their operator to look at them.
        withdrawals: patients who are no longer used.
        uses: which job used which patient.
    """

    def __init__(self, path: Path, secret: bytes, decoding: Decoding | None = None) -> None:
        self._engine = open_sqlite(path)
        self._secret, self.decoding = secret, decoding
        self._sealer = Sealer(secret, "catalogue")
        migrate(self._engine, self._sealer.seal)
        self.declarations = Declarations(self._engine)
        self.troubles = Troubles(self._engine, self._sealer)
        self._splits = Splits(self._engine)
        self.withdrawals = Withdrawals(self._engine, self._sealer, path)
        self.merges = Merges(self._engine, self.withdrawals.sweep)
        self.uses = Uses(self._engine)
        self.approvals = Approvals(self._engine)

    def pseudonym(self, kind: str, value: str) -> str:
        """Return the stable pseudonym of an identifier, 32 hex digits."""
        return pseudonym(self._secret, kind, value)

    def add(self, name: str, kind: str, root: Path, options: SourceOptions) -> DatasetSummary:
        """Scan a source and register it under `name`; errors as in `add_records`."""
        check_name(name)
        if name in self.names():  # fail before hours of reading; checked again when writing
            raise _taken(name)
        source = open_source(kind, root, options, self.decoding)
        return self.add_records(name, kind, root, options, source.everything())

    def add_records(
        self,
        name: str,
        kind: str,
        root: Path,
        options: SourceOptions,
        found: Iterable[ImageRecord | Quarantined],
        *,
        replace: bool = False,
        declare: Declaration | bool = True,
    ) -> DatasetSummary:
        """Register what a scan found, in one transaction.

        Args:
            replace: replace a data set of this name, in the same transaction; its declaration is kept.
            declare: what is public about it; True accepts the proposal, False leaves it to the operator to confirm.

        Raises:
            DataError: the name is invalid or taken, or no usable sample was found.
        """
        check_name(name)
        self.withdrawals.require_site()
        with self._engine.connect() as connection:
            # A scan may take hours and find a million images: they are staged in a temporary table, so that memory stays
            # free and the database unlocked meanwhile.
            former: set[tuple[str, str]] = set()
            found = noting_former(found, self._secret, former)
            images, _ = stage(connection, name, found, self._secret, self._sealer)
            if not images:
                reason = STAGED_QUARANTINE.c.reason
                counts = connection.execute(sa.select(reason, sa.func.count()).group_by(reason))
                raise nothing_usable({str(code): int(count) for code, count in counts})
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            earlier = ""
            if replace:
                mine = DATASETS.c.name == name
                earlier = connection.scalar(sa.select(DATASETS.c.declaration).where(mine)) or ""
                self._forget(connection, name)
            elif connection.execute(sa.select(DATASETS.c.name).where(DATASETS.c.name == name)).first():
                raise _taken(name)
            seal = self._sealer.seal
            row = {
                "name": name,
                "kind": kind,
                "root": seal(str(root.resolve())),
                "options": seal(settings_for(kind, options).model_dump_json()),
                "awaiting": awaiting(kind, root),
                "declaration": declare.model_dump_json() if isinstance(declare, Declaration) else earlier,
            }
            connection.execute(DATASETS.insert().values(**row, added_at=datetime.now(UTC).isoformat()))
            publish(connection)
            apply(connection, former)
            rename(connection)
            self.withdrawals.sweep_new(connection, name)
            connection.commit()
        if declare is True and not earlier:
            with contextlib.suppress(DataError):  # if it cannot be read it stays undeclared, and jobs on it are refused
                self.declarations.put(name, self.propose(name).declaration)
        return self.summary(name)

    def propose(self, name: str, least: int = FEW_PATIENTS) -> Proposal:
        """Return the declaration to be confirmed; arguments and errors as in `declaration.propose`."""
        return propose(
            self.facts(name),
            lambda: self._first_sample(name),
            len(self.patients(name)),
            least,
            own_validation=self._has_own_validation(name),
        )

    def _has_own_validation(self, name: str) -> bool:
        with self._engine.connect() as connection:
            mine = sa.select(IMAGES.c.id).where(IMAGES.c.dataset == name, IMAGES.c.split == "val").limit(1)
            return connection.scalar(mine) is not None

    def _first_sample(self, name: str) -> Sample:
        return self.source(name).load(self.images(name)[0].key)

    def remove(self, name: str) -> None:
        """Remove a data set from the catalogue; its files are not touched."""
        with self._engine.begin() as connection:
            if self._forget(connection, name) == 0:
                raise self._unknown(name)

    @staticmethod
    def _forget(connection: sa.Connection, name: str) -> int:
        for table in (TARGETS, IMAGES, QUARANTINE):
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
            query = sa.select(*columns, IMAGES.c.id).where(IMAGES.c.dataset == name).order_by(IMAGES.c.id)
            rows = connection.execute(query).all()
            kinds = kinds_by_image(connection, name)
        if not rows:
            self._registered(name)
            raise none_left(name)
        open_, none = self._sealer.open, dict[str, TargetKind]()
        return [
            CataloguedImage(row.patient, row.study, open_(row.key), *row[3:6], kinds.get(row.id, none)) for row in rows
        ]

    def patients(self, name: str) -> frozenset[str]:
        """Return the pseudonyms of all patients of a data set, empty for an unknown one."""
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(sa.select(IMAGES.c.patient).where(IMAGES.c.dataset == name).distinct()))

    def splits(self, name: str, fraction: float) -> dict[str, str]:
        """Return each patient's split, ``train``, ``val`` or ``test``, by pseudonym; see `split`.

        Args:
            fraction: share of the patients that is kept for validation, where nothing has decided yet.
        """
        declared = self.declarations.all().get(name)
        own = self._has_own_validation(name) if declared is None else declared.validation == "own"
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(IMAGES.c.patient, IMAGES.c.split).where(IMAGES.c.dataset == name))
            given = most_held_out((row.patient, row.split) for row in rows)
        return self._splits.settle(name, given, fraction, own=own)

    def facts(self, name: str) -> Iterator[ImageFacts]:
        """Yield what is known about every usable sample, in the order of `images`, without holding all of them."""
        columns = (IMAGES.c.id, IMAGES.c.patient, IMAGES.c.label, IMAGES.c.pixel_sha256, IMAGES.c.info)
        with self._engine.connect() as connection, self._engine.connect() as beside:
            rows = connection.execution_options(yield_per=BATCH).execute(
                sa.select(*columns).where(IMAGES.c.dataset == name).order_by(IMAGES.c.id)
            )
            annotated = streamed(beside, name)
            next_one = next(annotated, None)
            for row in rows:
                targets = {}
                if next_one is not None and next_one[0] == row.id:
                    targets, next_one = next_one[1], next(annotated, None)
                yield ImageFacts(row.patient, row.label, row.pixel_sha256, json.loads(row.info), targets)

    def source(self, name: str) -> Source:
        """Open the source of a data set."""
        row = self._registered(name)
        return open_source(row.kind, Path(self._sealer.open(row.root)), self._options(row), self.decoding)

    def kind(self, name: str) -> str:
        """Return the kind of a data set's source."""
        return str(self._registered(name).kind)

    def registered(self, name: str) -> tuple[Path, SourceOptions]:
        """Return where a data set lies and how it is read; for the site itself only."""
        row = self._registered(name)
        return Path(self._sealer.open(row.root)), self._options(row)

    def approve(self, name: str) -> None:
        """Approve a data set, see `Approvals.approve`; raises DataError for an unknown one."""
        self.approvals.approve(name, Path(self._sealer.open(self._registered(name).root)))

    def reading(self, name: str) -> str:
        """Return how a data set is read, its kind and options, as one string for comparison."""
        row = self._registered(name)
        return f"{row.kind} {settings_for(row.kind, self._options(row)).model_dump_json()}"

    def _registered(self, name: str) -> sa.Row[Any]:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
        if row is None:
            raise self._unknown(name)
        return row

    def _options(self, row: sa.Row[Any]) -> SourceOptions:
        return stored_settings(row.kind, json.loads(self._sealer.open(row.options)))

    def quarantined(
        self, name: str, reasons: Collection[str] | None = None, most: int | None = None
    ) -> list[Quarantined]:
        """Return the files that are not used, also those set aside: all of them, or at most so many with these reasons."""
        columns = (QUARANTINE.c.key, QUARANTINE.c.reason, QUARANTINE.c.detail)
        chosen = sa.true() if reasons is None else QUARANTINE.c.reason.in_(sorted(reasons))
        query = sa.select(*columns).where(QUARANTINE.c.dataset == name, chosen).order_by(QUARANTINE.c.id).limit(most)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            open_ = self._sealer.open
            return [Quarantined(open_(row.key), row.reason, open_(row.detail)) for row in rows]

    def unused(self, name: str) -> dict[str, int]:
        """Return the number of files that are not used, by reason; raises DataError for an unknown data set."""
        if name not in self.names():
            raise self._unknown(name)
        query = sa.select(QUARANTINE.c.reason, sa.func.count()).where(QUARANTINE.c.dataset == name)
        with self._engine.connect() as connection:
            rows = connection.execute(query.group_by(QUARANTINE.c.reason).order_by(QUARANTINE.c.reason))
            return {reason: count for reason, count in rows}

    def summary(self, name: str) -> DatasetSummary:
        """Return the counts of a data set; raises DataError for an unknown one."""
        with self._engine.connect() as connection:
            dataset = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).first()
            if dataset is None:
                raise self._unknown(name)
            return summary_of(connection, name, dataset.kind, Path(self._sealer.open(dataset.root)).name)

    def _unknown(self, name: str) -> DataError:
        known = ", ".join(self.names()) or "none"
        return DataError(
            f"No data set {name!r} is registered here (registered: {known}).", remedy="Register it: salus dataset add."
        )


def check_name(name: str) -> str:
    """Return the name of a data set if it is valid; raises DataError otherwise."""
    try:
        return NAME.validate_python(name)
    except ValidationError:
        raise DataError(
            f"Expected a name of lower-case letters, digits and hyphens that begins with a letter or digit, got {name[:80]!r}.",
            remedy="Choose a name such as chest-xray; jobs use the same name.",
        ) from None


def _taken(name: str) -> DataError:
    return DataError(f"A data set {name!r} is already registered.", remedy="Choose another name or remove it.")
