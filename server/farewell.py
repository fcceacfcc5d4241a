"""What happens when a job is aborted: nothing is left of it but the record of what was sent.

    coordinator   deletes its models; the transcript stays if a site consented to a sum in it
    sites         forget the job and give back what they reserved and did not send; who is offline is told when it comes back

A file for each aborted job lists the sites that have not been told, so that a restart forgets none.
"""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from salus.common.errors import RoundError, SalusError, describe
from salus.common.events import EventSink
from salus.common.files import write_whole
from salus.common.packets import Request
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.federation import GridFederation
from salus.server.link import Link
from salus.server.transcripts import has
from salus.server.turns import Turns

FOLDER = "farewells"
ABORTED = (
    "Its models are deleted. What the sites sent stays spent in their privacy ledgers; what they reserved and never sent is "
    "given back as soon as each site is told."
)
TELL_S = 120.0  # a site's worker may have to start


class Farewells:
    """The sites that must be told of aborted jobs.

    Args:
        folder: the coordinator's.
        turns: which job each site works for.
    """

    def __init__(self, folder: Path, link: Link, checkpoints: Checkpoints, events: EventSink, turns: Turns) -> None:
        self._folder, self._link, self._checkpoints = folder, link, checkpoints
        self._events, self._turns = events, turns
        self._lock, self._thread = threading.Lock(), threading.Thread()

    def abort(self, row: JobRow, sites: tuple[int, ...]) -> None:
        """End a job for good, whose rounds have stopped; a crash at any point is completed by `look`.

        Raises:
            JobError: it has finished, or was aborted before.
        """
        place = self._folder / FOLDER
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock:
            write_whole(place / f"{row.job_id}.json", json.dumps(sorted(sites)).encode())
        self._checkpoints.abort(row.job_id, ABORTED)
        self._clean(row.job_id)
        self._events.emit("job-ended", job=row.job_id, status="aborted", text=ABORTED)

    def _clean(self, job_id: str) -> None:
        """Delete what this coordinator keeps of a job."""
        shutil.rmtree(self._folder / "models" / job_id, ignore_errors=True)
        transcript = self._folder / "transcripts" / f"{job_id}.jsonl"
        if not has(transcript, "consent"):
            transcript.unlink(missing_ok=True)

    def pending(self) -> dict[str, list[int]]:
        """Return the sites that have not been told, by job."""
        with self._lock:
            found = {path.stem: json.loads(path.read_text()) for path in (self._folder / FOLDER).glob("*.json")}
        return {job: sites for job, sites in sorted(found.items()) if self._is_aborted(job)}

    def _is_aborted(self, job_id: str) -> bool:
        try:
            return self._checkpoints.job(job_id).status == "aborted"
        except RoundError:  # a database that was restored may not have it
            return False

    def look(self, stopped: Callable[[], bool]) -> None:
        """Tell the sites that are online and free, in a thread of its own; returns at once."""
        if self._thread.is_alive():
            return
        online = set(self._link.directory())
        due = {job: [site for site in sites if site in online] for job, sites in self.pending().items()}
        if any(due.values()):
            self._thread = threading.Thread(target=self._tell, args=(due, stopped), name="farewells", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Wait until nobody is being told."""
        if self._thread.is_alive():
            self._thread.join()

    def _tell(self, due: dict[str, list[int]], stopped: Callable[[], bool]) -> None:
        for job_id, sites in due.items():
            self._clean(job_id)
            grid = self._link.begin_run()
            try:
                with self._turns.hold_free(job_id, sites) as turn:
                    request = Request(kind="end", job_id=job_id, job=self._checkpoints.job(job_id).signed)
                    federation = GridFederation(grid, self._link.directory, stopped, progress=self._link.progress)
                    asked = dict.fromkeys(sorted(turn.sites), (request, b""))
                    for site, reply, _ in federation.exchange(asked, TELL_S):
                        if isinstance(reply, SalusError):
                            continue  # it is asked again when it is online
                        self._told(job_id, site, reply.text if reply.kind == "refused" else "")
            except Exception as problem:  # tried again; it never stops the coordinator
                self._events.emit("not-told", job=job_id, text=describe(problem))
            finally:
                grid.close()

    def _told(self, job_id: str, site: int, refusal: str) -> None:
        """Cross a site off. One that refuses, as older versions do, keeps its reservation until its operator closes it."""
        if refusal:
            text = f"{refusal[:300]} Its operator gives the reserved budget back with: salus ledger close."
            self._events.emit("not-told", job=job_id, site=site, text=text)
        path = self._folder / FOLDER / f"{job_id}.json"
        with self._lock:
            left = [other for other in json.loads(path.read_text()) if other != site]
            write_whole(path, json.dumps(left).encode()) if left else path.unlink()
