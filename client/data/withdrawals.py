"""Who has withdrawn: the one place that decides that a patient is no longer used at this site.

    withdraw   one transaction of the catalogue: the patient is on the list, and no data set has its images any more
    register   a data set, an import and a merge end with `sweep`, so that the patient's images are set aside again
    jobs       a job that runs in another process asks a `Gate` before it uses what it has in memory

Everything that reads images reads the catalogue's rows, so nothing else needs to know. Rows are only ever added to the list: a
withdrawal is not undone.
"""

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from salus.client.data.schema import IMAGES, MERGES, QUARANTINE, TARGETS, WITHDRAWALS, WITHDRAWN
from salus.client.data.sealing import Sealer
from salus.common.errors import DataError, Refused, UnreadableImage

REASON = "withdrawn"
PATIENT, SITE = "patient", "site"
SALT_BYTES = 32
CHUNK = 10_000


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal as the catalogue keeps it.

    Args:
        number: of its paper, from 1.
        who: ``patient`` or ``site``.
        salt: random, hexadecimal; with it the site can show later whom the paper means.
        datasets: those that held the patient.
        head: the ledger's length and last hash before, as ``3/ab12...``.
        finished: SHA-256 of the signed paper; empty while the command has not finished.
        patients: pseudonyms, ascending.
        named: those of them that the paper was signed for; a later merge adds others.
    """

    number: int
    who: str
    at: str
    salt: str
    datasets: tuple[str, ...]
    head: str
    finished: str
    patients: tuple[str, ...]
    named: frozenset[str]


class Withdrawals:
    """The withdrawals of one site, in its catalogue."""

    def __init__(self, engine: sa.Engine, sealer: Sealer, path: Path) -> None:
        self._engine, self._sealer, self._path = engine, sealer, path

    def gate(self) -> "Gate":
        """Return what a running job asks at each step."""
        return Gate(self._path, self)

    def names(self) -> frozenset[str]:
        """Return the pseudonyms of all patients who have withdrawn."""
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(sa.select(WITHDRAWN.c.patient)))

    def site_left(self) -> bool:
        """Return whether the whole site has withdrawn."""
        with self._engine.connect() as connection:
            return _site_left(connection)

    def require_site(self) -> None:
        """Raise Refused if the whole site has withdrawn."""
        if self.site_left():
            raise no_site()

    def withdraw(self, patients: Iterable[str], head: str, *, who: str = PATIENT) -> int:
        """Withdraw one person in all data sets, from the moment when this returns; return the number of the withdrawal.

        Args:
            patients: all pseudonyms of the person; for a site those of all patients are added.
            head: of the ledger.

        Guarantees: one transaction, on disk when this returns; a person who has withdrawn before keeps that number.
        """
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            named = _of_one_person(connection, patients)
            if who == SITE:
                known = connection.scalar(sa.select(WITHDRAWALS.c.number).where(WITHDRAWALS.c.who == SITE))
                named |= set(connection.scalars(sa.select(IMAGES.c.patient).distinct()))
            else:
                known = _number_of(connection, named)
            is_new = known is None
            if known is None:
                known = self._new(connection, who, head, _datasets(connection, named))
            _list(connection, named, known, named=is_new)
            self.sweep(connection)
            connection.commit()
        return int(known)

    def datasets_of(self, patients: Collection[str]) -> list[str]:
        """Return the data sets that hold one of these patients now."""
        with self._engine.connect() as connection:
            return _datasets(connection, patients)

    def add_paper(self, patients: Collection[str], head: str) -> None:
        """Let pseudonyms that a merge has put on the list have a withdrawal of their own, so that a paper tells of their jobs."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            number = self._new(connection, PATIENT, head, ())
            for part in _parts(sorted(patients)):
                late = sa.and_(WITHDRAWN.c.patient.in_(part), WITHDRAWN.c.named == sa.false())
                connection.execute(WITHDRAWN.update().where(late).values(number=number, named=True))
            connection.commit()

    def _new(self, connection: sa.Connection, who: str, head: str, datasets: Collection[str]) -> int:
        number = int(connection.scalar(sa.select(sa.func.max(WITHDRAWALS.c.number))) or 0) + 1
        row = {
            "number": number,
            "who": who,
            "at": datetime.now(UTC).date().isoformat(),  # the day: the hour could be compared with others' logs
            "salt": os.urandom(SALT_BYTES).hex(),
            "datasets": json.dumps(list(datasets)),
            "head": head,
        }
        connection.execute(WITHDRAWALS.insert().values(row))
        return number

    def sweep(self, connection: sa.Connection) -> None:
        """Set aside the images of all who have withdrawn, in the transaction of the caller; they count as ``withdrawn``.

        Whoever is merged with a person who has withdrawn has withdrawn, too.
        """
        _spread(connection)
        gone = IMAGES.c.patient.in_(sa.select(WITHDRAWN.c.patient))
        if connection.scalar(sa.select(IMAGES.c.id).where(gone).limit(1)) is None:
            return
        said = self._sealer.seal("its patient has withdrawn")
        columns = [IMAGES.c.dataset, IMAGES.c.key, sa.literal(REASON), sa.literal(said)]
        moved = sa.select(*columns).where(gone).order_by(IMAGES.c.id)
        connection.execute(QUARANTINE.insert().from_select(["dataset", "key", "reason", "detail"], moved))
        connection.execute(TARGETS.delete().where(TARGETS.c.image.in_(sa.select(IMAGES.c.id).where(gone))))
        connection.execute(IMAGES.delete().where(gone))

    def sweep_new(self, connection: sa.Connection, dataset: str) -> None:
        """Do the same after a data set was registered.

        Raises:
            DataError: nothing of it is left.
            Refused: the whole site has withdrawn while the data were read.
        """
        if _site_left(connection):
            raise no_site()
        self.sweep(connection)
        if connection.scalar(sa.select(IMAGES.c.id).where(IMAGES.c.dataset == dataset).limit(1)) is None:
            raise none_left(dataset)

    def all(self) -> list[Withdrawal]:
        """Return all withdrawals, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(WITHDRAWALS).order_by(WITHDRAWALS.c.number)).all()
            found: dict[int, dict[str, bool]] = {row.number: {} for row in rows}
            for row in connection.execute(sa.select(WITHDRAWN).order_by(WITHDRAWN.c.patient)):
                found[row.number][row.patient] = bool(row.named)
        return [
            Withdrawal(
                row.number, row.who, row.at, row.salt, tuple(json.loads(row.datasets)), row.head, row.finished,
                tuple(found[row.number]), frozenset(name for name, signed in found[row.number].items() if signed),
            )
            for row in rows
        ]  # fmt: skip

    def finish(self, number: int, digest: str) -> None:
        """Note that the paper of a withdrawal is on disk, with its SHA-256; the first one counts."""
        mine = sa.and_(WITHDRAWALS.c.number == number, WITHDRAWALS.c.finished == "")
        with self._engine.begin() as connection:
            connection.execute(WITHDRAWALS.update().where(mine).values(finished=digest))


class Gate:
    """Tells a running job who has withdrawn meanwhile, also through another process; asking costs microseconds.

    Args:
        path: of the catalogue.
    """

    def __init__(self, path: Path, withdrawals: Withdrawals) -> None:
        self._withdrawals = withdrawals
        self._lock = threading.Lock()  # batches are prepared in a thread of their own
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._connection.close)
        self._seen = -1
        self._gone: frozenset[str] = frozenset()

    def gone(self) -> frozenset[str]:
        """Return the pseudonyms of all who have withdrawn by now."""
        with self._lock:
            # SQLite's number changes with every commit of another connection, and is in shared memory.
            seen = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            if seen != self._seen:
                self._gone, self._seen = self._withdrawals.names(), seen
            return self._gone

    def require(self, patients: Collection[str]) -> None:
        """Raise UnreadableImage if one of these patients has withdrawn."""
        gone = self.gone()
        if gone and any(patient in gone for patient in patients):
            raise withdrawn()


def no_site() -> Refused:
    """Return the refusal of a site that has withdrawn."""
    return Refused(
        "This site has withdrawn: it takes part in no further job.",
        remedy="Continue without it, or let the consortium remove it from the roster.",
    )


def none_left(dataset: str) -> DataError:
    """Return the error of a data set of which nobody is left."""
    return DataError(
        f"The data set {dataset!r} has no usable image: all of its patients have withdrawn.",
        remedy="Register data of other patients: salus dataset add.",
    )


def withdrawn() -> UnreadableImage:
    """Return the error of an image whose patient has withdrawn."""
    found = UnreadableImage(REASON, "its patient has withdrawn")
    found.remedy = "Nothing; this step is given up, and the next one is without the patient. See docs/withdrawal.md."
    return found


def _of_one_person(connection: sa.Connection, patients: Iterable[str]) -> set[str]:
    """Return these pseudonyms and all that are merged with them."""
    found = set(patients)
    if not found:
        return found
    merges = {row.patient: row.kept for row in connection.execute(sa.select(MERGES))}
    kept = {merges.get(patient, patient) for patient in found}
    return found | kept | {patient for patient, into in merges.items() if into in kept}


def _site_left(connection: sa.Connection) -> bool:
    query = sa.select(WITHDRAWALS.c.number).where(WITHDRAWALS.c.who == SITE).limit(1)
    return connection.scalar(query) is not None


def _number_of(connection: sa.Connection, patients: Collection[str]) -> int | None:
    for part in _parts(sorted(patients)):
        found = connection.scalar(sa.select(sa.func.min(WITHDRAWN.c.number)).where(WITHDRAWN.c.patient.in_(part)))
        if found is not None:
            return int(found)
    return None


def _datasets(connection: sa.Connection, patients: Collection[str]) -> list[str]:
    found: set[str] = set()
    for part in _parts(sorted(patients)):
        found |= set(connection.scalars(sa.select(IMAGES.c.dataset).where(IMAGES.c.patient.in_(part)).distinct()))
    return sorted(found)


def _list(connection: sa.Connection, patients: Collection[str], number: int, *, named: bool) -> None:
    insert = WITHDRAWN.insert().prefix_with("OR IGNORE")
    for part in _parts(sorted(patients)):
        connection.execute(insert, [{"patient": patient, "number": number, "named": named} for patient in part])


def _spread(connection: sa.Connection) -> None:
    """Put everybody on the list who is merged with somebody on it; pairs are never chains, see `merging`."""
    number = {row.patient: row.number for row in connection.execute(sa.select(WITHDRAWN))}
    if not number:
        return
    into = {row.patient: row.kept for row in connection.execute(sa.select(MERGES))}
    of_person: dict[str, int] = {}
    for patient, which in number.items():
        kept = into.get(patient, patient)
        of_person[kept] = min(which, of_person.get(kept, which))
    everybody = [*into, *set(into.values())]
    for patient in everybody:
        which = of_person.get(into.get(patient, patient))
        if which is not None and patient not in number:
            _list(connection, [patient], which, named=False)


def _parts(patients: Sequence[str]) -> Iterable[Sequence[str]]:
    return (patients[first : first + CHUNK] for first in range(0, len(patients), CHUNK))
