"""That this folder was restored from a backup, so that nothing that may have happened after it is given the same number.

A site refuses a session that it has opened before, and a job's number names it at every site. What the coordinator did between
the backup and its loss is unknown here. So every attempt, and every job, after a restore has a number above all that can
have been given in that time.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import StorageError
from salus.common.files import write_whole
from salus.common.strict import Strict, load_json

FILE = "restored.json"
ATTEMPTS = 1000  # in one round between a backup and its restore; a round that fails makes a few dozen in an hour
JOBS = 1000  # submitted between a backup and its restore
MOST = 900  # restores; attempts are numbered up to 1 000 000


class Restored(Strict):
    """The numbers from which a coordinator goes on.

    Args:
        times: how often the folder was restored, counting the backups of restored folders.
        first_attempt: lowest number of the next attempt of a round.
        first_job: lowest number of the next job.
    """

    times: Annotated[int, Field(ge=0, le=MOST)] = 0
    first_attempt: Annotated[int, Field(ge=0, le=MOST * ATTEMPTS)] = 0
    first_job: Annotated[int, Field(ge=0, le=2**31)] = 1

    def again(self, last_job: int) -> "Restored":
        """Return the numbers after one more restore.

        Args:
            last_job: highest number of a job in the backup.
        """
        times = self.times + 1
        return Restored(times=times, first_attempt=times * ATTEMPTS, first_job=max(self.first_job, last_job) + JOBS)

    def write(self, folder: Path) -> None:
        """Write it into a coordinator's folder."""
        write_whole(folder / FILE, canonical_json(self.model_dump(mode="json")) + b"\n")


def restored(folder: Path) -> Restored:
    """Return the numbers from which the coordinator of this folder goes on; raises StorageError if the file is damaged."""
    if not (folder / FILE).exists():
        return Restored()
    return load_json(Restored, folder / FILE, error=StorageError, what="file of a restore")
