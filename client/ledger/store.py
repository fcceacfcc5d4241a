"""The ledger in SQLite: each change is one transaction that is on disk before the method returns.

no entry ──reserve──> open ──commit (n times)──> open ──close──> closed
a commit beyond what was reserved, or of a job that is closed or unknown, is refused
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from pydantic import Field, TypeAdapter

from salus.client.ledger.accounts import committed_of, finished_of, last_sent_of, minus, reserved_of
from salus.client.ledger.budget import Budget as Budget
from salus.client.ledger.entries import FORMAT, NOTHING, Close, Commit, Entry, Reserve, check_chain, entry_hash
from salus.client.ledger.spending import Group, groups_of, persons
from salus.client.ledger.tables import APPEND_ONLY, ENTRIES, MERGES, METADATA, PATIENTS
from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import BudgetError, LedgerError
from salus.common.sqlite import open_database
from salus.privacy.dp.accounting import Release
from salus.privacy.dp.plan import Plan
from salus.privacy.protocol.head import Head, went_back

ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


class Ledger:
    """One site's ledger.

    Args:
        path: of the SQLite file, created if absent.

    Guarantees: the recorded spending is never less than what was sent, whenever the process is killed and whatever the
    clock shows; patients are known by the catalogue's pseudonyms, so a renamed or copied data set spends the same budget.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._engine = open_database(path, METADATA, FORMAT)
        with self._engine.begin() as connection:
            for table in ("entries", "patients", "merges"):
                for verb in ("UPDATE", "DELETE"):
                    connection.execute(sa.text(APPEND_ONLY.format(table=table, verb=verb)))

    def reserve(
        self, job: str, dataset: str, patients: frozenset[str], plan: Plan, rounds: int, budget: Budget
    ) -> frozenset[str]:
        """Reserve everything that a job may cost and return its patients; an open job keeps the patients it began with.

        Raises:
            LedgerError: the job was closed, or a patient would exceed the budget; with the numbers.
        """
        with self._writing() as connection:
            known = self._entries(connection, job)
            if known:
                if isinstance(known[-1], Close):
                    raise LedgerError("This job has ended at this site.", remedy="Submit it again as a new job.")
                return frozenset(connection.scalars(sa.select(PATIENTS.c.patient).where(PATIENTS.c.job == job)))
            now = self._now(connection)
            self._check_budget(connection, patients, plan, budget, now)
            salt = os.urandom(
                32
            ).hex()  # the head is sent to others, who must not be able to test whether somebody is a patient
            entry = Reserve(
                at=now.isoformat(),
                job=job,
                dataset=dataset,
                rounds=rounds,
                mode=plan.mode,
                patients=len(patients),
                salt=salt,
                patients_sha256=patients_digest(patients, salt),
                releases=plan.reserved(),
                epsilon=plan.epsilon,
                delta=plan.delta,
            )
            self._append(connection, entry)
            if patients:
                connection.execute(PATIENTS.insert(), [{"patient": p, "job": job} for p in sorted(patients)])
            return patients

    def allows(self, patients: frozenset[str], plan: Plan, budget: Budget) -> bool:
        """Return whether these patients' budgets would allow a job with this plan now; reserves nothing."""
        with self._engine.connect() as connection:
            try:
                self._check_budget(connection, patients, plan, budget, self._now(connection))
            except LedgerError:
                return False
        return True

    def merge(self, pairs: Mapping[str, str]) -> None:
        """Remember that patients are one person: from now on, each has spent what all of them have, see `spending`.

        Args:
            pairs: the other patient by patient; pairs that are known change nothing, and none is ever forgotten.
        """
        rows = [{"patient": patient, "other": other} for patient, other in sorted(pairs.items())]
        if rows:
            with self._writing() as connection:
                connection.execute(MERGES.insert().prefix_with("OR IGNORE"), rows)

    def commit(self, job: str, round_: int, attempt: int, release: Release) -> None:
        """Record that a release is about to leave the site.

        Raises:
            LedgerError: not reserved, or beyond what was reserved.
        """
        with self._writing() as connection:
            known = self._entries(connection, job)
            if not known or isinstance(known[-1], Close):
                raise LedgerError("Nothing is reserved for this job.", remedy="Submit it again as a new job.")
            reserved, used = reserved_of(known), committed_of(known)
            beyond = minus(reserved, [*used, release])
            if beyond is None:
                raise LedgerError(
                    f"The job's reserved privacy is used up: {sum(r.count for r in used)} of "
                    f"{sum(r.count for r in reserved)} releases were sent and {release.count} more were requested.",
                    remedy="Submit a new job with more privacy.spare_rounds; each patient's budget must allow it.",
                )
            self._append(
                connection,
                Commit(at=self._now(connection).isoformat(), job=job, round=round_, attempt=attempt, release=release),
            )

    def close(self, job: str) -> tuple[Release, ...]:
        """Close a job and return what was given back; nothing if it is already closed.

        Raises:
            LedgerError: no such job.
        """
        with self._writing() as connection:
            known = self._entries(connection, job)
            if not known:
                raise LedgerError(f"The ledger has no job {job!r}.", remedy="List the jobs with: salus ledger show.")
            if isinstance(known[-1], Close):
                return ()
            refunded = minus(reserved_of(known), committed_of(known)) or ()
            self._append(connection, Close(at=self._now(connection).isoformat(), job=job, refunded=refunded))
            return refunded

    def close_finished(self, but: str) -> None:
        """Close every open job that has done its last round, except one."""
        with self._engine.connect() as connection:
            jobs = list(connection.scalars(sa.select(ENTRIES.c.job).distinct()))
            done = [job for job in jobs if job != but and finished_of(self._entries(connection, job))]
        for job in done:
            self.close(job)

    def head(self) -> Head:
        """Return the ledger's head: its length and last hash."""
        with self._engine.connect() as connection:
            return self._head(connection)

    def check_holds(self, site: int, remembered: Head | None) -> None:
        """Check that this ledger is a later state of the one that the site remembers apart from it.

        A ledger restored from a backup may have grown longer since; its entry at the remembered place is another one.

        Raises:
            ProtectionError: it is not.
        """
        if remembered is None or remembered.length == 0:
            return
        with self._engine.connect() as connection:
            here = connection.scalar(sa.select(ENTRIES.c.hash).where(ENTRIES.c.number == remembered.length))
            head = self._head(connection)
        if here != remembered.last:
            raise went_back(site, remembered, head)

    def entries(self) -> list[tuple[Entry, bytes]]:
        """Return all entries with their stored hashes, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(ENTRIES.c.body, ENTRIES.c.hash).order_by(ENTRIES.c.number)).all()
        return [(ENTRY.validate_json(row.body), row.hash) for row in rows]

    def verify(self) -> Head:
        """Check every hash, every reservation's patients, and that no job sent more than was reserved; return the head.

        Raises:
            LedgerError: a check failed.
        """
        entries = self.entries()
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(ENTRIES.c.body, ENTRIES.c.hash).order_by(ENTRIES.c.number)).all()
        head = check_chain([(row.body.encode(), row.hash) for row in rows])
        by_job: dict[str, list[Entry]] = {}
        for entry, _ in entries:
            by_job.setdefault(entry.job, []).append(entry)
        for job, mine in by_job.items():
            if minus(reserved_of(mine), committed_of(mine)) is None:
                raise LedgerError(
                    f"Job {job!r} sent more than was reserved for it.", remedy="Report it to the consortium."
                )
        for entry, _ in entries:
            if isinstance(entry, Reserve):
                with self._engine.connect() as connection:
                    patients = connection.scalars(sa.select(PATIENTS.c.patient).where(PATIENTS.c.job == entry.job))
                    if patients_digest(frozenset(patients), entry.salt) != entry.patients_sha256:
                        raise LedgerError(
                            f"The patients of job {entry.job!r} are not those that were recorded.",
                            remedy="Restore the latest copy of ledger.sqlite, and find out who changed it.",
                        )
        return head

    def groups(self, budget: Budget, patients: frozenset[str] | None = None) -> list[Group]:
        """Return what patients have spent in the period that ends now; all known patients unless some are named."""
        with self._engine.connect() as connection:
            return self._groups(connection, self._now(connection), budget, patients)

    def places(self, patients: Iterable[str]) -> dict[str, int]:
        """Return in how many places one person, known by these pseudonyms, stands in each job that reserved budget for it."""
        found: Counter[str] = Counter()
        with self._engine.connect() as connection:
            for patient in patients:
                found.update(connection.scalars(sa.select(PATIENTS.c.job).where(PATIENTS.c.patient == patient)))
        return dict(found)

    # inside a transaction

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Hold the database's write lock from the first read on, so that two processes cannot spend the same budget."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _append(self, connection: sa.Connection, entry: Entry) -> None:
        head, body = self._head(connection), canonical_json(entry.model_dump(mode="json"))
        connection.execute(
            ENTRIES.insert().values(
                number=head.length + 1, job=entry.job, body=body.decode(), hash=entry_hash(head.last, body)
            )
        )

    def _head(self, connection: sa.Connection) -> Head:
        row = connection.execute(
            sa.select(ENTRIES.c.number, ENTRIES.c.hash).order_by(ENTRIES.c.number.desc()).limit(1)
        ).one_or_none()
        return Head(0, NOTHING) if row is None else Head(row.number, row.hash)

    def _now(self, connection: sa.Connection) -> datetime:
        """Return the clock's time, but never before the newest entry's: a clock set back must not reopen a period."""
        body = connection.scalar(sa.select(ENTRIES.c.body).order_by(ENTRIES.c.number.desc()).limit(1))
        now = self._clock.now()
        return now if body is None else max(now, datetime.fromisoformat(ENTRY.validate_json(body).at))

    def _entries(self, connection: sa.Connection, job: str) -> list[Entry]:
        rows = connection.scalars(sa.select(ENTRIES.c.body).where(ENTRIES.c.job == job).order_by(ENTRIES.c.number))
        return [ENTRY.validate_json(body) for body in rows]

    def _groups(
        self, connection: sa.Connection, now: datetime, budget: Budget, patients: frozenset[str] | None
    ) -> list[Group]:
        since = now - timedelta(days=budget.period_days)
        cost: dict[str, Sequence[Release]] = {}
        for job in connection.scalars(sa.select(ENTRIES.c.job).distinct()):
            entries = self._entries(connection, job)
            if not isinstance(entries[-1], Close):
                cost[job] = reserved_of(entries)  # an open job may still send everything, however old
            elif datetime.fromisoformat(last_sent_of(entries).at) > since:
                cost[job] = committed_of(entries)
        person = persons((row.patient, row.other) for row in connection.execute(sa.select(MERGES)))
        jobs: dict[str, list[str]] = {person.get(patient, patient): [] for patient in patients or ()}
        if len(jobs) < len(patients or ()):
            raise LedgerError(
                "The data set holds patients whom the ledger knows to be one person.",
                remedy="Run salus dataset merge-patients again with the same file.",
            )
        for patient, job in connection.execute(sa.select(PATIENTS).order_by(PATIENTS.c.job, PATIENTS.c.patient)):
            known = person.get(patient, patient)
            if patients is None or known in jobs:
                jobs.setdefault(known, []).append(job)
        return groups_of((tuple(mine) for mine in jobs.values()), cost)

    def _check_budget(
        self, connection: sa.Connection, patients: frozenset[str], plan: Plan, budget: Budget, now: datetime
    ) -> None:
        beyond, worst = 0, 0.0
        for group in self._groups(connection, now, budget, patients):
            total = group.epsilon(budget.delta, plan.reserved())
            worst = max(worst, total)
            beyond += group.patients if total > budget.epsilon else 0
        if beyond:
            raise BudgetError(
                f"Expected at most epsilon {budget.epsilon:g} (delta {budget.delta:g}) per patient in {budget.period_days} days; "
                f"with this job of epsilon {plan.epsilon:g}, patients of this site would reach {worst:.3g}.",
                remedy="Lower the job's epsilon, wait for the period to pass, or let the site's operator raise the budget.",
            )


def patients_digest(patients: frozenset[str], salt: str) -> str:
    """Return SHA-256, in hex, over salt and pseudonyms, ascending, joined by newlines."""
    return hashlib.sha256("\n".join([salt, *sorted(patients)]).encode()).hexdigest()
