"""How the admin wishes jobs to end. On disk from the command on, so that a coordinator that is killed meanwhile forgets none."""

from pathlib import Path

from salus.common.errors import StorageError
from salus.common.files import write_whole

FOLDER = "wishes"
KNOWN = ("cancelled", "paused", "draining", "aborted")
MOST_BYTES = 100


class Wishes:
    """One file for each job that has not ended yet as the admin wishes; may be used from any thread.

    Args:
        folder: the coordinator's.
    """

    def __init__(self, folder: Path) -> None:
        self._place = folder / FOLDER
        self._of = {path.stem: _read(path) for path in self._place.glob("*.wish")}

    def get(self, job_id: str, default: str = "") -> str:
        """Return the wish for a job, also when it was carried out; `default` if there is none."""
        return self._of.get(job_id, default)

    def put(self, job_id: str, wish: str) -> None:
        """Remember a wish.

        Raises:
            StorageError: it counts, but cannot be written down.
        """
        self._of[job_id] = wish
        try:
            self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._path(job_id), wish.encode())
        except (OSError, StorageError):
            raise StorageError(
                "The job will stop, but the disk cannot be written to: a coordinator that is restarted before that "
                "lets it go on.",
                remedy="Free some space, and give the command again.",
            ) from None

    def carried_out(self, job_id: str) -> None:
        """Delete the file of a job that has ended."""
        self._path(job_id).unlink(missing_ok=True)

    def forget(self, job_id: str) -> None:
        """Forget the wish for a job that goes on."""
        self._of.pop(job_id, None)
        self.carried_out(job_id)

    def _path(self, job_id: str) -> Path:
        return self._place / f"{job_id}.wish"


def _read(path: Path) -> str:
    """Return the wish in a file; of another version, damaged or closed, it is a pause: the admin can let the job go on."""
    try:
        with path.open("rb") as file:
            found = file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        found = ""
    return found if found in KNOWN else "paused"
