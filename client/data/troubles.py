"""Current problems with a site's data: shown to its operator and to nobody else, until they are resolved.

While a job runs, a site must not tell others that something is wrong with its patients' data, so it continues
without them. Its own operator must know at once, and for as long as the problem lasts.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from salus.client.data.schema import TROUBLES
from salus.client.data.sealing import Sealer

MAX_KEYS = 20  # samples that are tried again to see whether a problem is resolved


@dataclass(frozen=True)
class Finding:
    """A problem that a job found with its data set.

    Args:
        problem: one sentence with its remedy; for the operator only.
        keys: samples that could not be read.
    """

    problem: str
    keys: tuple[str, ...] = ()


def unreadable(lost: Mapping[str, str]) -> Finding:
    """Return the finding for registered samples that cannot be read, by key and reason."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(lost.values()).items()))
    return Finding(
        f"{len(lost)} registered image(s) or row(s) can no longer be read ({reasons}). Restore the files, or register "
        "the data set again; salus dataset check lists them.",
        tuple(sorted(lost)),
    )


@dataclass(frozen=True)
class Trouble:
    """One data set that could not be used as registered.

    Args:
        since: when it was first seen, ISO 8601 in UTC.
        problem: one sentence with its remedy; for the operator only.
        keys: samples that could not be read, at most `MAX_KEYS` of them.
    """

    dataset: str
    since: str
    problem: str
    keys: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The line that the operator sees."""
        return f"Data set {self.dataset!r}, since {self.since[:16].replace('T', ' ')} UTC: {self.problem}"


class Troubles:
    """The open problems of one site, in its catalogue, shared by the daemon and the command line."""

    def __init__(self, engine: sa.Engine, sealer: Sealer) -> None:
        self._engine, self._sealer = engine, sealer

    def all(self) -> list[Trouble]:
        """Return the open problems by data set."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(TROUBLES).order_by(TROUBLES.c.dataset)).all()
        open_ = self._sealer.open
        return [Trouble(row.dataset, row.since, open_(row.problem), tuple(json.loads(open_(row.keys)))) for row in rows]

    def put(self, dataset: str, finding: Finding) -> bool:
        """Record a problem, keeping its first date; returns whether it is new or has changed."""
        with self._engine.begin() as connection:
            mine = TROUBLES.c.dataset == dataset
            known = connection.execute(sa.select(TROUBLES).where(mine)).first()
            since = known.since if known is not None else datetime.now(UTC).isoformat()
            connection.execute(TROUBLES.delete().where(mine))
            seal = self._sealer.seal  # the text may quote a file's name
            keys = seal(json.dumps(finding.keys[:MAX_KEYS]))
            row = {"dataset": dataset, "since": since, "problem": seal(finding.problem), "keys": keys}
            connection.execute(TROUBLES.insert().values(**row))
        return known is None or self._sealer.open(known.problem) != finding.problem

    def clear(self, dataset: str) -> bool:
        """Clear a resolved problem; returns whether there was one."""
        with self._engine.begin() as connection:
            return connection.execute(TROUBLES.delete().where(TROUBLES.c.dataset == dataset)).rowcount > 0
