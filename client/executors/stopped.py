"""Jobs that a site's operator has stopped here: refused until the operator allows them again."""

import json
from pathlib import Path

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, Refused
from salus.common.files import write_whole

NAME = "stopped-jobs.json"
WORKING = "working.json"  # identifier of the message that is being answered, how often it was begun, id of its job
MOST = 1000  # the oldest are forgotten; their jobs have long ended
MOST_BYTES = 200_000


class StoppedJobs:
    """The list of a site, in its folder. The daemon reads it while a job works, too."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def all(self) -> list[str]:
        """Return the ids of stopped jobs; raises ConfigError for a damaged file."""
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(MOST_BYTES))
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(job, str) for job in found):
            raise ConfigError(f"The file {NAME!r} is damaged.", remedy="Delete it, then stop the jobs again.")
        return found

    def add(self, job: str) -> None:
        """Stop a job."""
        known = [other for other in self.all() if other != job]
        write_whole(self._path, canonical_json([*known, job][-MOST:]))

    def remove(self, job: str) -> None:
        """Allow a job again; raises ConfigError if it is not stopped."""
        known = self.all()
        if job not in known:
            raise ConfigError(f"The job {job!r} is not stopped.", remedy="See salus client status.")
        write_whole(self._path, canonical_json([other for other in known if other != job]))

    def check(self, job: str) -> None:
        """Raise Refused for a stopped job; a damaged list refuses every job."""
        if job and job in self._listed():
            raise Refused("The operator of this site has stopped this job.", remedy="Ask the site's operator.")

    def _listed(self) -> list[str]:
        try:
            return self.all()
        except ConfigError as problem:
            raise Refused(
                "This site cannot work now.", remedy="Its operator sees the reason in the site's log."
            ) from problem


def job_at_work(folder: Path) -> str:
    """Return the id of the job that a site works for now; empty if there is none."""
    try:
        words = (folder / WORKING).read_text(errors="replace").split()
    except OSError:
        return ""
    return words[2] if len(words) == 3 else ""
