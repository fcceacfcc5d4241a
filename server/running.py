"""Runs one job of the coordinator in its own thread: over the link, from its last checkpoint to its end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, RecordDict

from salus.common.errors import SalusError, StorageError, describe, storage_error, where
from salus.common.events import EventSink
from salus.common.start.store import CoordinatorStarts
from salus.privacy.records.transcripts import ROSTER
from salus.server.app import make_server_app
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.config import ServerFolder
from salus.server.federation import Federation
from salus.server.inviting import Cancelled
from salus.server.link import Link
from salus.server.measuring import keep_model
from salus.server.outline import OUTLINES, Outlines
from salus.server.participants import Participants, participants
from salus.server.reporting import NO_REPORT, Reports
from salus.server.rounds import run_of
from salus.server.transcripts import began_with, opened
from salus.server.turns import Turns


@dataclass(frozen=True)
class Control:
    """What the admin wants of a running job.

    Args:
        must_end: whether it must stop now.
        must_pause: whether it must stop before the next round.
        wish: the status with which it ends then; empty if it continues later.
    """

    must_end: Callable[[], bool]
    must_pause: Callable[[], bool]
    wish: Callable[[], str]


class JobRunner:
    """Runs the jobs of one coordinator; callable from several threads, each with another job.

    Args:
        reports: writes the report of a finished job.
        turns: which job each site works for.
        aborted: called when a job was aborted, after it has stopped.
        waiting: see `participants`.
    """

    def __init__(
        self,
        folder: ServerFolder,
        link: Link,
        checkpoints: Checkpoints,
        events: EventSink,
        reports: Reports,
        starts: CoordinatorStarts,
        turns: Turns,
        aborted: Callable[[JobRow], None],
        waiting: Callable[[str], Mapping[int, str]] = lambda digest: {},
    ) -> None:
        self._folder, self._link, self._checkpoints = folder, link, checkpoints
        self._events, self._reports, self._starts, self._turns = events, reports, starts, turns
        self._aborted = aborted
        self._outlines = Outlines(folder.folder / OUTLINES)
        self._waiting = waiting

    def run(self, row: JobRow, control: Control) -> None:
        """Run a job to its end, which is then recorded.

        Args:
            control: whether it must stop now; it stays running, and continues later, unless the admin wishes otherwise.

        Raises:
            StorageError, OSError: the machine cannot store data; the job continues when it can again.
        """
        grid = self._link.begin_run()
        try:
            roster = began_with(self._transcript(row.job_id)) or self._folder.trust.digest
            who = self.participants(self._checkpoints.begin(row.job_id, roster))
            self._events.emit("started", job=row.job_id, rounds=row.job.job.rounds)
            app = make_server_app(
                lambda federation: self._work(row, federation, who, control),
                lambda: who.present(self._link.directory()),
                control.must_end,
                self._link.progress,
            )
            app(grid, Context(grid.run.run_id, 1, {}, RecordDict(), {}))
            self._end(row.job_id, "finished")
        except Cancelled:
            if wish := control.wish():
                self._end(row.job_id, wish)
        except StorageError:
            raise  # not caused by the job, which is resumed when the machine can write again
        except SalusError as problem:
            self._end(row.job_id, "failed", describe(problem))
        except Exception as problem:  # a failed job never stops the coordinator
            if isinstance(problem, OSError) and storage_error(problem) is not None:
                raise  # as above
            self._events.emit("unexpected", job=row.job_id, error=type(problem).__name__, where=where(problem))
            self._end(row.job_id, "failed", describe(problem))
        finally:
            grid.close()

    def participants(self, roster: str) -> Participants:
        """Return who takes part in a job now.

        Args:
            roster: hash of the roster with which it began; empty for a job that has not begun.
        """
        trust = self._folder.trust
        began = roster or trust.digest
        return participants(trust.roster(began), lambda: self._folder.roster, began, self._waiting)

    def _work(self, row: JobRow, federation: Federation, who: Participants, control: Control) -> None:
        transcript = opened(self._transcript(row.job_id), self._checkpoints.attempted(row.job_id))
        transcript(ROSTER, signed=self._folder.trust.signed(who.roster).model_dump(mode="json"))
        outline = self._outlines.of(row.job)
        attempts = Attempts(
            row.job,
            row.job_id,
            row.signed,
            federation,
            self._checkpoints,
            self._events,
            who.keys,
            transcript,
            who,
            cancelled=control.must_end,
            draining=lambda: control.must_pause() or self._replaced(row.job_id, who.roster),
            start=self._starts.of(row.job) if outline is None else outline.start,
            turns=self._turns,
            outline=outline,
            evaluated=self._reports.evaluated(row.job_id),
        )
        run_of(attempts).run()
        keep_model(attempts, self._folder.identity)

    def _replaced(self, job_id: str, roster: str) -> bool:
        """Whether a job that has asked no site yet waits with a roster that was replaced: it begins again with the newest."""
        waits = roster != self._folder.trust.digest and not self._checkpoints.attempted(job_id)
        return waits and not began_with(self._transcript(job_id))

    def _transcript(self, job_id: str) -> Path:
        return self._folder.folder / "transcripts" / f"{job_id}.jsonl"

    def _end(self, job_id: str, status: str, reason: str = "") -> None:
        if status == "finished" and not self._reports.write(job_id):
            reason = NO_REPORT
        if status == "aborted":
            self._aborted(self._checkpoints.job(job_id))
            return
        self._checkpoints.set_status(job_id, status, reason)
        self._events.emit("job-ended", job=job_id, status=status, text=reason)
