"""Which patients train and which validate, decided once for each patient of a site and then the same in every job.

The first job that uses a patient decides; later jobs keep the decision, whatever their validation fraction and whatever data
set they use. So a patient whom a model was trained on never measures a later one.

A decision depends on the patient's own rows, on public facts and on a hash of the pseudonym, never on other patients: under
differential privacy, one patient's presence must not move another.
"""

import hashlib
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from salus.client.data.schema import IMAGES, SPLITS

KNOWN = ("train", "val", "test")  # from least to most held out
CHUNK = 10_000


class Splits:
    """The decisions of one site, in its catalogue."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def settle(self, dataset: str, given: Mapping[str, str], fraction: float, *, own: bool) -> dict[str, str]:
        """Return each patient's split: the one that an earlier job decided, or a new decision, which is on disk before
        this returns.

        Args:
            dataset: the data set with these patients.
            given: each patient's split in the source, empty if it states none, see `most_held_out`.
            fraction: share of patients that is kept for validation.
            own: whether the source says which patients validate; if not, its training patients are divided too.
        """
        decided = self._decided(dataset)
        new = {patient: decide(patient, split, fraction, own=own) for patient, split in given.items()}
        missing = [{"patient": p, "split": split} for p, split in new.items() if p not in decided]
        if missing:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                insert = SPLITS.insert().prefix_with("OR IGNORE")  # another process may have decided in the meantime
                for first in range(0, len(missing), CHUNK):
                    connection.execute(insert, missing[first : first + CHUNK])
                connection.commit()
            decided = self._decided(dataset)
        return {patient: decided[patient] for patient in given}

    def _decided(self, dataset: str) -> dict[str, str]:
        mine = sa.select(IMAGES.c.patient).where(IMAGES.c.dataset == dataset)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(SPLITS.c.patient, SPLITS.c.split).where(SPLITS.c.patient.in_(mine)))
            return {row.patient: row.split for row in rows}


def most_held_out(rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return one split for each patient from (patient, split) of its images: if they differ, the most held-out one.

    Splits that are not in `KNOWN` are passed over.
    """
    given: dict[str, str] = {}
    for patient, split in rows:
        if split in KNOWN and (not given.get(patient) or KNOWN.index(split) > KNOWN.index(given[patient])):
            given[patient] = split
        else:
            given.setdefault(patient, "")
    return given


def decide(patient: str, given: str, fraction: float, *, own: bool) -> str:
    """Return the split of one patient, from its own facts; arguments as in `Splits.settle`."""
    if given in ("val", "test") or (given == "train" and own):
        return given
    return "val" if _place(patient) < fraction else "train"


def _place(patient: str) -> float:
    """Return a number from 0 to 1 that follows from the pseudonym."""
    return int.from_bytes(hashlib.sha256(b"split\0" + patient.encode()).digest()[:8], "big") / 2**64
