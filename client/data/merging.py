"""Several pseudonyms that name one person: which one is kept, and what becomes of images and splits.

    images   get the pseudonym that is kept, those of later registrations and imports too
    split    the least held out of what was decided: a patient on whom a model was trained never measures one
    ledger   is told before every use, see `Ledger.merge`

A merge is one transaction of the catalogue. It cannot be undone: what the two have spent cannot be divided again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from salus.client.data.schema import IMAGES, MERGES, SPLITS
from salus.client.data.split import KNOWN


@dataclass(frozen=True)
class Merged:
    """What a merge has changed.

    Args:
        new: identifiers that were not merged before.
        known: pairs that were merged before.
        images: that got another patient.
        crossed: patients who were held out under one identifier and trained on under another one: what was measured on them
            before may be too good.
    """

    new: int = 0
    known: int = 0
    images: int = 0
    crossed: int = 0


class Merges:
    """The merges of one site, in its catalogue.

    Args:
        sweep: sets aside the images of whoever is now one person with somebody who has withdrawn.
    """

    def __init__(self, engine: sa.Engine, sweep: Callable[[sa.Connection], None]) -> None:
        self._engine, self._sweep = engine, sweep

    def all(self) -> dict[str, str]:
        """Return the pseudonym that is kept by each one that is not."""
        with self._engine.connect() as connection:
            return _all(connection)

    def of(self, patient: str) -> list[str]:
        """Return all pseudonyms of a patient, the one that is kept first."""
        merges = self.all()
        kept = merges.get(patient, patient)
        return [kept, *sorted(other for other, into in merges.items() if into == kept)]

    def merge(self, pairs: Iterable[tuple[str, str]]) -> Merged:
        """Merge pairs of pseudonyms, the first of each being kept, in one transaction; merged ones stay merged."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            done = apply(connection, pairs)
            self._sweep(connection)
            connection.commit()
        return done


def apply(connection: sa.Connection, pairs: Iterable[tuple[str, str]]) -> Merged:
    """Do what `Merges.merge` does, in the transaction of the caller."""
    merges = _all(connection)
    into: dict[str, list[str]] = {}
    for other, kept in merges.items():
        into.setdefault(kept, []).append(other)
    new = known = crossed = 0
    for first, second in pairs:
        kept, other = merges.get(first, first), merges.get(second, second)
        if kept == other:
            known += 1
            continue
        for moved in (other, *into.pop(other, ())):
            merges[moved] = kept
            into.setdefault(kept, []).append(moved)
            connection.execute(MERGES.insert().prefix_with("OR REPLACE").values(patient=moved, kept=kept))
        crossed += _join_splits(connection, kept, other)
        new += 1
    return Merged(new, known, rename(connection) if new else 0, crossed)


def rename(connection: sa.Connection) -> int:
    """Give the images of merged patients the pseudonym that is kept, and return how many there were."""
    kept = sa.select(MERGES.c.kept).where(MERGES.c.patient == IMAGES.c.patient).scalar_subquery()
    mine = IMAGES.c.patient.in_(sa.select(MERGES.c.patient))
    return connection.execute(IMAGES.update().where(mine).values(patient=kept)).rowcount


def _join_splits(connection: sa.Connection, kept: str, other: str) -> bool:
    """Decide the split of two patients who are one, and return whether one was held out and the other was not."""
    rows = connection.execute(sa.select(SPLITS).where(SPLITS.c.patient.in_((kept, other)))).all()
    decided: Mapping[str, str] = {row.patient: row.split for row in rows}
    if not decided:
        return False
    least = min(decided.values(), key=KNOWN.index)
    connection.execute(SPLITS.insert().prefix_with("OR REPLACE").values(patient=kept, split=least))
    return len(set(decided.values())) > 1 and least == "train"


def _all(connection: sa.Connection) -> dict[str, str]:
    return {row.patient: row.kept for row in connection.execute(sa.select(MERGES))}
