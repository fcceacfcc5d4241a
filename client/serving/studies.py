"""What the node knows of each study, in SQLite: every change of state is on disk before anything follows from it.

    receiving ──quiet──> received ──begin──> predicting ──done──> predicted ──begin──> sending ──all stored──> sent
                            ^                    │                                        │
                            └──── killed, disk ──┴──> failed (with its reason)            └── the PACS is away: later again

The files of a study are on disk before its row says so, and are removed only after it says that they are not needed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from salus.common.clock import Clock
from salus.common.errors import ConfigError
from salus.common.sqlite import open_database

FORMAT = 1
FILE = "studies.sqlite"
RECEIVING, RECEIVED, PREDICTING, PREDICTED = "receiving", "received", "predicting", "predicted"
SENDING, SENT, FAILED, DISCARDED = "sending", "sent", "failed", "discarded"
STATES = (RECEIVING, RECEIVED, PREDICTING, PREDICTED, SENDING, SENT, FAILED, DISCARDED)
OPEN = (RECEIVING, RECEIVED, PREDICTING, PREDICTED, SENDING)
MOST_BEGUN = 3  # a study whose prediction ended the process that often is taken for its cause
MOST_DONE = 10_000  # rows of finished studies that are kept
MOST_DETAIL = 300  # characters
REPEATED_H = 24  # hours in which a study with the same files is not predicted on again
LONGEST_WAIT_S = 900.0  # between two attempts
FIRST_WAIT_S = 5.0
METADATA = sa.MetaData()
STUDIES = sa.Table(
    "studies",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_uid", sa.String, nullable=False, index=True),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("model_sha256", sa.String, nullable=False, default=""),
    sa.Column("files_sha256", sa.String, nullable=False, default=""),
    sa.Column("files", sa.Boolean, nullable=False, default=True),
    sa.Column("instances", sa.Integer, nullable=False, default=0),
    sa.Column("objects", sa.Integer, nullable=False, default=0),
    sa.Column("refused", sa.String, nullable=False, default="{}"),
    sa.Column("begun", sa.Integer, nullable=False, default=0),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("due_at", sa.Float, nullable=False, default=0.0),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("detail", sa.String, nullable=False, default=""),
    sa.Column("kept", sa.String, nullable=False, default=""),
    sa.Column("arrived_at", sa.String, nullable=False),
    sa.Column("changed_at", sa.String, nullable=False, index=True),
    sqlite_autoincrement=True,
)
COUNTS = sa.Table(
    "counts",
    METADATA,
    sa.Column("what", sa.String, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class Study:
    """One delivery of a study.

    Args:
        id: of the delivery; names its folder.
        files: whether its files are still here.
        objects: DICOM objects that were predicted.
        refused: images that no prediction was made for, by reason.
        begun: how often its prediction was begun and not finished.
        tries: how often the PACS did not take its results.
        due_at: seconds since 1970 before which it is not tried again.
        kept: why its files were kept.
    """

    id: int
    study_uid: str
    state: str
    model_sha256: str
    files_sha256: str
    files: bool
    instances: int
    objects: int
    refused: dict[str, int]
    begun: int
    tries: int
    due_at: float
    reason: str
    detail: str
    kept: str
    arrived_at: str
    changed_at: str


class Studies:
    """The table of studies in one file; safe to use from several threads and processes."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._engine, self._clock = open_database(folder / FILE, METADATA, FORMAT), clock

    def open(self, study_uid: str) -> int:
        """Return the number of a new delivery."""
        now = self._clock.now()
        at = {"arrived_at": now.isoformat(), "changed_at": now.isoformat(), "due_at": now.timestamp()}
        row = {"study_uid": study_uid, "state": RECEIVING, **at}
        with self._engine.begin() as connection:
            return int(connection.execute(STUDIES.insert().values(row).returning(STUDIES.c.id)).scalar_one())

    def number_after(self, number: int) -> None:
        """Give only numbers beyond this one to what comes."""
        newest = sa.select(sa.func.max(STUDIES.c.id))
        with self._engine.begin() as connection:
            row = {"study_uid": "", "state": DISCARDED, "arrived_at": "", "changed_at": ""}
            if number > (connection.execute(newest).scalar() or 0):
                connection.execute(STUDIES.insert().values(id=number, **row))
                connection.execute(STUDIES.delete().where(STUDIES.c.id == number))

    def change(self, number: int, *before: str, **values: Any) -> bool:
        """Change a study that is in one of these states, or in any; return whether it was."""
        if "refused" in values:
            values["refused"] = json.dumps(values["refused"])
        if "detail" in values:
            values["detail"] = values["detail"][:MOST_DETAIL]
        query = STUDIES.update().where(STUDIES.c.id == number)
        if before:
            query = query.where(STUDIES.c.state.in_(before))
        with self._engine.begin() as connection:
            return connection.execute(query.values(changed_at=self._clock.now().isoformat(), **values)).rowcount > 0

    def next(self, *states: str) -> Study | None:
        """Return the study in one of these states that has been due for longest, so that none keeps others from their turn."""
        now = self._clock.now().timestamp()
        due = sa.or_(STUDIES.c.due_at <= now, STUDIES.c.due_at > now + LONGEST_WAIT_S)  # the clock was set back
        return self._one(STUDIES.c.state.in_(states), due)

    def due(self) -> float:
        """Return the time of something that is due at once."""
        return self._clock.now().timestamp()

    def later(self, study: Study, state: str, reason: str, detail: str) -> None:
        """Try a study again after a while that doubles each time."""
        wait_s = min(FIRST_WAIT_S * 2 ** min(study.tries, 20), LONGEST_WAIT_S)
        due_at = self._clock.now().timestamp() + wait_s
        values = {"tries": study.tries + 1, "due_at": due_at, "reason": reason, "detail": detail}
        self.change(study.id, state=state, **values)

    def repeated(self, study: Study, model_sha256: str, files_sha256: str) -> Study | None:
        """Return a delivery of the same files whose results were made and sent a short while ago."""
        since = (self._clock.now() - timedelta(hours=REPEATED_H)).isoformat()
        same = [
            STUDIES.c.study_uid == study.study_uid,
            STUDIES.c.model_sha256 == model_sha256,
            STUDIES.c.files_sha256 == files_sha256,
            STUDIES.c.objects > 0,
        ]
        return self._one(*same, STUDIES.c.state == SENT, STUDIES.c.changed_at >= since, STUDIES.c.id != study.id)

    def forget(self, study_uid: str) -> None:
        """Let the next delivery of a study be predicted on, whatever was sent before."""
        sent = STUDIES.update().where(STUDIES.c.study_uid == study_uid, STUDIES.c.state == SENT)
        with self._engine.begin() as connection:
            connection.execute(sent.values(files_sha256=""))

    def listed(self, *states: str, most: int = 1000) -> list[Study]:
        """Return studies in these states, or all, the newest first."""
        query = STUDIES.select().order_by(STUDIES.c.id.desc()).limit(most)
        if states:
            query = query.where(STUDIES.c.state.in_(states))
        with self._engine.connect() as connection:
            return [_study(row) for row in connection.execute(query).mappings()]

    def get(self, number: int) -> Study:
        """Return one study; raises ConfigError if there is none of this number."""
        found = self._one(STUDIES.c.id == number)
        if found is None:
            raise ConfigError(f"There is no study {number}.", remedy="List them: salus serve status FOLDER.")
        return found

    def held(self) -> tuple[int, int]:
        """Return how many studies wait that no longer arrive, and how many instances they have."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(STUDIES.c.instances), 0)).where(
            STUDIES.c.files, STUDIES.c.state.in_(OPEN[1:])
        )
        with self._engine.connect() as connection:
            studies, instances = connection.execute(query).one()
        return int(studies), int(instances)

    def by_state(self) -> dict[str, int]:
        """Return how many studies are in each state."""
        query = sa.select(STUDIES.c.state, sa.func.count()).group_by(STUDIES.c.state)
        with self._engine.connect() as connection:
            found = {str(state): int(count) for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

    def count(self, what: str) -> None:
        """Count something that is not kept, such as an object that is no image."""
        with self._engine.begin() as connection:
            found = connection.execute(COUNTS.update().where(COUNTS.c.what == what).values(count=COUNTS.c.count + 1))
            if not found.rowcount:
                connection.execute(COUNTS.insert().values(what=what, count=1))

    def counts(self) -> dict[str, int]:
        """Return what was counted."""
        with self._engine.connect() as connection:
            return {str(row["what"]): int(row["count"]) for row in connection.execute(COUNTS.select()).mappings()}

    def prune(self) -> None:
        """Forget the oldest studies beyond `MOST_DONE` that have ended and have no files here."""
        ended = sa.and_(STUDIES.c.state.in_((SENT, DISCARDED, FAILED)), ~STUDIES.c.files)
        done = sa.select(STUDIES.c.id).where(ended)
        kept = done.order_by(STUDIES.c.id.desc()).limit(1).offset(MOST_DONE)
        with self._engine.begin() as connection:
            last = connection.execute(kept).scalar()
            if last is not None:
                connection.execute(STUDIES.delete().where(STUDIES.c.id <= last, ended))

    def _one(self, *conditions: Any) -> Study | None:
        query = STUDIES.select().where(*conditions).order_by(STUDIES.c.due_at, STUDIES.c.id).limit(1)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _study(row)


def _study(row: Mapping[Any, Any]) -> Study:
    values = {str(key): value for key, value in row.items()}
    return Study(**{**values, "refused": json.loads(values["refused"])})
