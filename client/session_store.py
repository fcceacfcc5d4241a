"""What a site remembers of masked sums, in SQLite: sessions opened, and the one consent given in each.

The database's own uniqueness decides, and a transaction is on disk before the method returns, so neither two processes nor
`kill -9` between signing and sending can make a site consent twice.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from salus.common.sqlite import open_sqlite
from salus.privacy.masking.store import consented_before, opened_before

METADATA = sa.MetaData()
SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("session", sa.LargeBinary, primary_key=True),
    sa.Column("job_id", sa.String, nullable=False, index=True),
    sa.Column("manifest", sa.LargeBinary, nullable=False, index=True),
    sa.Column("opened_at", sa.String, nullable=False),
)
CONSENTS = sa.Table(
    "consents",
    METADATA,
    sa.Column("session", sa.ForeignKey("sessions.session"), primary_key=True),
    sa.Column("survivors", sa.String, nullable=False),
)


class SqliteSessionStore:
    """Fulfils `SessionStore` in one file."""

    def __init__(self, path: Path) -> None:
        self._engine = open_sqlite(path)
        METADATA.create_all(self._engine)

    def open_session(self, session: bytes, job_id: str, manifest: bytes) -> None:
        """Remember a session and what it was for; raises ProtectionError if it was opened before."""
        now = datetime.now(UTC).isoformat()
        row = {"session": session, "job_id": job_id, "manifest": manifest, "opened_at": now}
        try:
            with self._engine.begin() as connection:
                connection.execute(SESSIONS.insert().values(row))
        except sa.exc.IntegrityError:
            raise opened_before() from None

    def consent(self, session: bytes, survivors: frozenset[int]) -> None:
        """Remember the consent of an opened session; raises ProtectionError if one was given in it already."""
        row = {"session": session, "survivors": json.dumps(sorted(survivors))}
        try:
            with self._engine.begin() as connection:
                connection.execute(CONSENTS.insert().values(row))
        except sa.exc.IntegrityError:
            raise consented_before() from None

    def cohorts(self, job_id: str, manifest: bytes) -> list[frozenset[int]]:
        """Return the survivor sets this site has consented to under this id or this signed job."""
        same = sa.or_(SESSIONS.c.job_id == job_id, SESSIONS.c.manifest == manifest)
        query = sa.select(CONSENTS.c.survivors).join(SESSIONS).where(same)
        with self._engine.connect() as connection:
            return [frozenset(json.loads(row)) for row in connection.scalars(query)]
