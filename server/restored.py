"""That this folder was restored from a backup, so that nothing that may have happened after it is given the same number.

A site refuses a session that it has opened before, and a job's number names it at every site. What the coordinator did between
the backup and its loss is unknown here, also whether the same backup was restored before. So attempts after a restore are
numbered from a random number, and jobs from one above all that can have been given in that time.
"""

import secrets
from pathlib import Path
from typing import Annotated

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import StorageError
from salus.common.files import write_whole
from salus.common.strict import Strict, load_json

FILE = "restored.json"
FEWEST, MOST = 1000, 900_000  # first attempt after a restore; a round has a few dozen, and attempts end at 1 000 000
JOBS = 1000  # submitted between a backup and its restore


class Restored(Strict):
    """The numbers from which a coordinator goes on.

    Args:
        times: how often the folder was restored, counting the backups of restored folders.
        first_attempt: lowest number of the next attempt of a round.
        first_job: lowest number of the next job.
    """

    times: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    first_attempt: Annotated[int, Field(ge=0, le=MOST)] = 0
    first_job: Annotated[int, Field(ge=0, le=2**31)] = 1

    def again(self, last_job: int) -> "Restored":
        """Return the numbers after one more restore.

        Args:
            last_job: highest number of a job in the backup.
        """
        first = FEWEST + secrets.randbelow(MOST - FEWEST)
        return Restored(times=self.times + 1, first_attempt=first, first_job=max(self.first_job, last_job) + JOBS)

    def write(self, folder: Path) -> None:
        """Write it into a coordinator's folder."""
        write_whole(folder / FILE, canonical_json(self.model_dump(mode="json")) + b"\n")


def restored(folder: Path) -> Restored:
    """Return the numbers from which the coordinator of this folder goes on; raises StorageError if the file is damaged."""
    if not (folder / FILE).exists():
        return Restored()
    return load_json(Restored, folder / FILE, error=StorageError, what="file of a restore")
