"""Which job used which patient: on disk before a round computes anything from the data, and kept when the data set is removed.

The ledger knows this of jobs with noise, for their cost. Of jobs without noise nothing else at the site does, and a patient who
withdraws must be told about them first of all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from salus.client.data.schema import USED_JOBS, USES, WITHDRAWN
from salus.privacy.contribution import DataKind

CHUNK = 10_000
SHARED = "(another data set)"  # no job: a scope whose sums end as well, see `withdrawing.run`
UNRECORDED = "(not recorded)"  # jobs of versions that kept no record; followed by their scope


@dataclass(frozen=True)
class UsedJob:
    """A job that reads a data set.

    Args:
        job: the id that the coordinator gave it, and the beginning of the signed job's hash.
        scope: data set and cohort epoch.
        protected: whether the site's vector was masked or encrypted.
    """

    job: str
    scope: str
    noised: bool
    protected: bool


@dataclass(frozen=True)
class Use:
    """What one job did with a patient.

    Args:
        kind: of data that the patient was part of.
        round: the first one in which the site took part with this patient.
    """

    job: UsedJob
    at: str
    kind: DataKind
    round: int


class Uses:
    """The uses at one site, in its catalogue."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def note(self, job: UsedJob, patients: Mapping[str, DataKind], round_: int) -> None:
        """Note who takes part in a job from a round on; on disk when this returns, and what is known is kept."""
        rows = [
            {"job": job.job, "patient": patient, "kind": int(kind), "round": round_}
            for patient, kind in patients.items()
        ]
        at = datetime.now(UTC).isoformat()
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.execute(USED_JOBS.insert().prefix_with("OR IGNORE").values(**vars(job), at=at))
            for first in range(0, len(rows), CHUNK):
                connection.execute(USES.insert().prefix_with("OR IGNORE"), rows[first : first + CHUNK])
            connection.commit()

    def of(self, patients: Iterable[str]) -> list[Use]:
        """Return what was done with one person, known by these pseudonyms, the oldest job first."""
        found: dict[str, Use] = {}
        query = sa.select(USED_JOBS, USES.c.kind, USES.c.round).join(USES, USES.c.job == USED_JOBS.c.job)
        with self._engine.connect() as connection:
            for patient in patients:
                for row in connection.execute(query.where(USES.c.patient == patient)):
                    job = UsedJob(row.job, row.scope, bool(row.noised), bool(row.protected))
                    before = found.get(row.job)
                    kind = DataKind(row.kind) | (before.kind if before else DataKind.NONE)
                    first = min(row.round, before.round) if before else row.round
                    found[row.job] = Use(job, row.at, kind, first)
        return sorted(found.values(), key=lambda use: (use.at, use.job.job))

    def every(self) -> list[Use]:
        """Return all jobs, each with all kinds of data that it used and its first round."""
        kinds = sa.select(
            USED_JOBS,
            sa.func.min(USES.c.round).label("first"),
            *(sa.func.max(USES.c.kind.op("&")(int(kind))).label(f"kind{int(kind)}") for kind in DataKind.kinds()),
        ).join(USES, USES.c.job == USED_JOBS.c.job)
        with self._engine.connect() as connection:
            rows = connection.execute(kinds.group_by(USED_JOBS.c.job).order_by(USED_JOBS.c.at, USED_JOBS.c.job))
            return [
                Use(
                    UsedJob(row.job, row.scope, bool(row.noised), bool(row.protected)),
                    row.at,
                    DataKind(sum(int(getattr(row, f"kind{int(kind)}")) for kind in DataKind.kinds())),
                    row.first,
                )
                for row in rows
            ]

    def first(self, scope: str) -> str | None:
        """Return when the first recorded job of a scope began; None if none is recorded."""
        mine = sa.and_(USED_JOBS.c.scope == scope, USED_JOBS.c.job.not_like("(%"))
        with self._engine.connect() as connection:
            found: str | None = connection.scalar(sa.select(sa.func.min(USED_JOBS.c.at)).where(mine))
        return found

    def jobs(self) -> frozenset[str]:
        """Return the names of all recorded jobs."""
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(sa.select(USED_JOBS.c.job)))

    def ended(self, scope: str) -> tuple[bool, bool]:
        """Return whether somebody has withdrawn who was in vectors without noise of this scope: protected and plain ones."""
        query = (
            sa.select(USED_JOBS.c.protected)
            .join(USES, USES.c.job == USED_JOBS.c.job)
            .join(WITHDRAWN, WITHDRAWN.c.patient == USES.c.patient)
            .where(USED_JOBS.c.scope == scope, USED_JOBS.c.noised == sa.false())
            .distinct()
        )
        with self._engine.connect() as connection:
            found = {bool(value) for value in connection.scalars(query)}
        return True in found, False in found
