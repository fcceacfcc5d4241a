"""The report and the model card of a finished job, written when it ends or, if the disk is full then, when there is space."""

from salus.common.canonical import canonical_json
from salus.common.errors import SalusError, StorageError, describe
from salus.common.events import EventSink
from salus.common.files import write_whole
from salus.common.history import History
from salus.privacy.records.card import model_card
from salus.server.card import card_of_job
from salus.server.checkpoints import Checkpoints
from salus.server.config import ServerFolder
from salus.server.dropped import left_out_of
from salus.server.quality import evaluation_in
from salus.server.report import write_report
from salus.server.statistics_report import write_statistics_report

NO_REPORT = "The report is not written yet: this machine could not store it. It follows when it can."


class Reports:
    """Writes reports.

    Args:
        history: all events so far.
    """

    def __init__(self, folder: ServerFolder, checkpoints: Checkpoints, events: EventSink, history: History) -> None:
        self._folder, self._checkpoints, self._events, self._history = folder, checkpoints, events, history
        self._late = True  # an earlier process may have left some

    def write(self, job_id: str) -> bool:
        """Write a job's report and its card; returns False if this machine cannot store them now, then `write_late` will."""
        try:
            self._write(job_id)
        except (OSError, SalusError) as problem:
            self._events.emit("no-report", job=job_id, text=describe(problem))
            self._late = self._late or isinstance(problem, OSError | StorageError)
            return not isinstance(problem, OSError | StorageError)
        return True

    def evaluated(self, job_id: str) -> bool:
        """Return whether a job's model was evaluated at the sites, by the events that are left."""
        return any(event.kind == "evaluated" for _, event in self._history.of(job_id))

    def write_late(self) -> None:
        """Write the reports for which there was no space when their jobs finished.

        Raises:
            StorageError: there still is none.
        """
        if not self._late:
            return
        self._late = False  # `write` may set it again, also for another job at the same time
        rows = [row for row in self._checkpoints.jobs() if row.status == "finished" and row.reason == NO_REPORT]
        try:
            for row in rows:
                self._checkpoints.check_writable(row.job_id)
                if self.write(row.job_id):
                    self._checkpoints.clear_reason(row.job_id)
                    self._events.emit("reported", job=row.job_id)
        except (OSError, StorageError):
            self._late = True
            raise

    def _write(self, job_id: str) -> None:
        row = self._checkpoints.job(job_id)
        job, folder, trust = row.job, self._folder.folder, self._folder.trust
        roster = trust.roster(row.roster or trust.digest)
        card = card_of_job(job, folder / "transcripts" / f"{job_id}.jsonl", roster.keys(), roster.names())
        path, records = folder / "reports" / f"{job_id}.html", self._checkpoints.records(job_id)
        events = [event for _, event in self._history.of(job_id)]
        if job.statistics is not None:
            write_statistics_report(path, job, job_id, records, card, events)
            return
        missing = left_out_of(records, events, roster.names())
        whole = model_card(job_id, job, card, evaluation_in(events), roster.consortium, missing)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path.with_suffix(".card.json"), canonical_json(whole.model_dump(mode="json")) + b"\n")
        write_report(path, job, job_id, records, events, card, consortium=roster.consortium, left_out=missing)
