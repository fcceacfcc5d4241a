"""What a site remembers of protected sums, in SQLite: sessions opened, and the one consent given in each.

The database's own uniqueness decides, and a transaction is on disk before the method returns, so neither two processes nor
`kill -9` between signing and sending can make a site consent twice.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from salus.common.sqlite import open_database
from salus.privacy.contribution import DataKind
from salus.privacy.protocol.contributors import Consent, Contributors
from salus.privacy.protocol.head import Head, went_back
from salus.privacy.protocol.store import asked_before, consented_before, opened_before

FORMAT = 1
METADATA = sa.MetaData()
SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("session", sa.LargeBinary, primary_key=True),
    sa.Column("scope", sa.String, nullable=False, index=True),
    sa.Column("opened_at", sa.String, nullable=False),
)
CONSENTS = sa.Table(
    "consents",
    METADATA,
    sa.Column("session", sa.ForeignKey("sessions.session"), primary_key=True),
    sa.Column("survivors", sa.String, nullable=False),
    sa.Column("way", sa.String, nullable=False),
    sa.Column("contributors", sa.String),
)

HEADS = sa.Table(
    "ledger_heads",
    METADATA,
    sa.Column("site", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("last", sa.LargeBinary, nullable=False),
)


QUESTIONS = sa.Table(
    "questions",
    METADATA,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("question", sa.String, nullable=False),
)


class SqliteSessionStore:
    """Implements `SessionStore` in one file."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path, METADATA, FORMAT)

    def open_session(self, session: bytes, scope: str) -> None:
        """Remember a session and its scope; raises ProtectionError if it was opened before."""
        row = {"session": session, "scope": scope, "opened_at": datetime.now(UTC).isoformat()}
        try:
            with self._engine.begin() as connection:
                connection.execute(SESSIONS.insert().values(row))
        except sa.exc.IntegrityError:
            raise opened_before() from None

    def consent(self, session: bytes, consent: Consent) -> None:
        """Remember the consent of an opened session; raises ProtectionError if one was given in it already."""
        row = {
            "session": session,
            "survivors": json.dumps(sorted(consent.survivors)),
            "way": consent.way,
            "contributors": _write(consent.contributors),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(CONSENTS.insert().values(row))
        except sa.exc.IntegrityError:
            raise consented_before() from None

    def consents(self, scope: str) -> list[Consent]:
        """Return every different consent given in a scope, whatever the job."""
        columns = CONSENTS.c.survivors, CONSENTS.c.way, CONSENTS.c.contributors
        # Thousands of rounds with the same sites are one answer.
        query = sa.select(*columns).join(SESSIONS).where(SESSIONS.c.scope == scope).distinct()
        with self._engine.connect() as connection:
            return [
                Consent(frozenset(json.loads(row.survivors)), row.way, _read(row.contributors))
                for row in connection.execute(query)
            ]

    def opened(self) -> dict[str, str]:
        """Return when the first session of each scope began in which a consent was given, without those of jobs with noise."""
        first = sa.func.min(SESSIONS.c.opened_at).label("first")
        query = sa.select(SESSIONS.c.scope, first).join(CONSENTS).group_by(SESSIONS.c.scope)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return {row.scope: row.first for row in rows if not row.scope.startswith("noised/")}

    def ask(self, scope: str, questions: Mapping[str, str], *, remember: bool = True) -> None:
        """Remember the questions of a job without noise; raises Refused if the same quantity was asked about in another way."""
        with self._engine.begin() as connection:
            rows = connection.execute(QUESTIONS.select().where(QUESTIONS.c.scope == scope))
            known = {row.name: row.question for row in rows}
            for name, question in questions.items():
                if known.get(name, question) != question:
                    raise asked_before(name)
            new = [{"scope": scope, "name": n, "question": q} for n, q in questions.items() if n not in known]
            if new and remember:
                connection.execute(QUESTIONS.insert(), new)

    def ledger_head(self, site: int) -> Head | None:
        """Return the newest ledger head that was remembered of a site, or None."""
        with self._engine.connect() as connection:
            row = connection.execute(HEADS.select().where(HEADS.c.site == site)).one_or_none()
        return None if row is None else Head(row.length, row.last)

    def ledger_seen(self, site: int, head: Head) -> None:
        """Remember the newest ledger head of a site; raises ProtectionError if that ledger was rolled back."""
        with self._engine.begin() as connection:
            row = connection.execute(HEADS.select().where(HEADS.c.site == site)).one_or_none()
            if row is not None and not head.follows(Head(row.length, row.last)):
                raise went_back(site, Head(row.length, row.last), head)
            connection.execute(HEADS.delete().where(HEADS.c.site == site))
            connection.execute(HEADS.insert().values(site=site, length=head.length, last=head.last))


def _write(contributors: Contributors | None) -> str | None:
    """Return the contributors as JSON: kind of data, as its number, to sites."""
    if contributors is None:
        return None
    return json.dumps({str(int(kind)): sorted(sites) for kind, sites in contributors.items()}, sort_keys=True)


def _read(text: str | None) -> Contributors | None:
    if text is None:
        return None
    return {DataKind(int(kind)): frozenset(sites) for kind, sites in json.loads(text).items()}
