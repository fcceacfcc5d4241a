"""Which roster a job uses at this site: the newest one when it begins, and the same one until it ends.

    first request of a job    it must name the newest roster that is installed here, which is recorded on disk
    later requests            they must name the recorded one, whatever was installed since

So a coordinator can neither begin a job with a roster that was replaced, nor change the roster of a running job. No further sum
of a running job is opened with a member that was removed since, or has new keys.
"""

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from salus.common.errors import Refused
from salus.common.identity import unhex
from salus.common.roster import Roster
from salus.common.sqlite import open_database
from salus.common.trust import Trust

FORMAT = 1
METADATA = sa.MetaData()
BEGUN = sa.Table(
    "begun",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("roster", sa.String, nullable=False),
)


RECORDED = sa.Table(  # of these, jobs whose patients are in the catalogue; versions of before recorded none
    "recorded",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
)


def jobs_without_record(path: Path) -> list[str]:
    """Return the jobs that began here before patients were recorded, each with its hash; none if the site has had no job."""
    if not path.exists():
        return []
    with open_database(path, METADATA, FORMAT).connect() as connection:
        missing = BEGUN.c.job.not_in(sa.select(RECORDED.c.job))
        return list(connection.scalars(sa.select(BEGUN.c.job).where(missing).order_by(BEGUN.c.job)))


class JobRosters:
    """The rosters of this site's jobs.

    Args:
        public_key: this site's key; a running job continues only while the site has the keys with which it began.
    """

    def __init__(self, path: Path, trust: Trust, public_key: bytes) -> None:
        self._engine = open_database(path, METADATA, FORMAT)
        self._trust, self._public_key = trust, public_key

    @property
    def trust(self) -> Trust:
        """The kit that is installed now: also one that came while the daemon runs."""
        self._trust = self._trust.current()
        return self._trust

    def coordinator_key(self) -> bytes:
        """Return the Ed25519 key of the coordinator on the newest roster, which must have signed a job."""
        return unhex(self.trust.newest.coordinator.public_key)

    def keys(self, job: str, digest: str) -> Mapping[int, bytes]:
        """Return the Ed25519 keys of a job's roster, by site id.

        Args:
            job: names the job and its contents.
            digest: hash of the roster that the coordinator names, see `roster_hash`.

        Raises:
            Refused: another roster than the job's own, or one that does not have this site's key.
            RosterError: a roster that was never installed here.
        """
        known, trust = self._begun(job), self.trust
        if known is not None and known != digest:
            raise Refused(
                "This job began at this site with another roster.",
                remedy="Submit it again as a new job; its events show the details.",
            )
        if known is None and digest != trust.digest:
            raise _not_newest(trust, digest)
        roster = trust.roster(digest)
        if self._public_key not in roster.keys().values():
            raise Refused(
                f"This site's key is not on roster {roster.serial}, with which the job began.",
                remedy="The site takes part again in the next job.",
            )
        if known is None:
            with self._engine.begin() as connection:
                connection.execute(BEGUN.insert().values(job=job, roster=digest))
                connection.execute(RECORDED.insert().values(job=job))
        return roster.keys()

    def removed(self, keys: Mapping[int, bytes]) -> frozenset[int]:
        """Return the sites among `keys` that the newest roster no longer has, or has with another key."""
        now = self.trust.newest.keys()
        return frozenset(site for site, key in keys.items() if now.get(site) != key)

    def _begun(self, job: str) -> str | None:
        with self._engine.connect() as connection:
            found: str | None = connection.scalar(sa.select(BEGUN.c.roster).where(BEGUN.c.job == job))
        return found


def _not_newest(trust: Trust, digest: str) -> Refused:
    newest: Roster = trust.newest
    try:
        other = trust.roster(digest)
    except Exception:
        return Refused(
            f"The coordinator uses a roster that is not installed at this site, which has roster {newest.serial}.",
            remedy="The coordinator sends its roster to every site; if this goes on, install the newest kit at both sides.",
        )
    return Refused(
        f"A new job needs the newest roster: the coordinator has roster {other.serial}, this site {newest.serial}.",
        remedy="If the job began before this site had its newest roster, the site takes part in the next job; otherwise install "
        "the newest kit at the coordinator: salus server join.",
    )
