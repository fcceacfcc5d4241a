"""The coordinator's daemon: the port for sites, the local admin socket, and one job at a time, resumed after any crash.

waiting ──taken──> running ──all rounds──> finished
                      │ too few sites, or a round that fails in every attempt ──> failed
                      │ cancelled by the admin ──> cancelled
                      └ the process ends, or the roster does ──> still running; resumed from the last checkpoint
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flwr.app import Context, RecordDict

from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import SalusError, StorageError, describe, storage_error, where
from salus.common.events import Event, EventLog, read_events
from salus.common.expiry import RosterWatch
from salus.common.health import HealthServer
from salus.common.identity import Signed
from salus.common.job import Job, open_job, seal_job
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.common.versions import PROTOCOL
from salus.privacy.protection import protection_of
from salus.privacy.records.card import model_card
from salus.privacy.records.transcripts import ROSTER
from salus.server.admin import make_admin_app
from salus.server.app import make_server_app
from salus.server.attempts import Attempts, Cancelled
from salus.server.card import card_of_job
from salus.server.checking import Checker
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.checks import check_job
from salus.server.config import ADMIN_SOCKET, ServerFolder
from salus.server.door import raise_open_files
from salus.server.federation import Federation
from salus.server.link import Link
from salus.server.listen import listen_tcp, listen_unix
from salus.server.measuring import keep_model
from salus.server.participants import Participants, participants, scope_of
from salus.server.quality import evaluation_in
from salus.server.report import write_report
from salus.server.rounds import run_of
from salus.server.statistics_report import transforms_section, write_statistics_report
from salus.server.submission import job_or_signed
from salus.server.transcripts import Transcript

IDLE_POLL_S = 0.2
# An answer that came after its run had ended, and sites' long polls that end with the daemon.
EXPECTED = ("Run is finished", "timeout graceful shutdown exceeded")
STORAGE_RETRY_S = 30.0  # the longest that an operator waits after freeing space on the disk


def is_news(record: logging.LogRecord) -> bool:
    """Return whether an operator should see what Flower or uvicorn logs; what happens every day is not shown as an error."""
    return not any(text in record.getMessage() for text in EXPECTED)


class CoordinatorDaemon:
    """Serves one consortium until `stop` is called.

    Args:
        listener: called with every event, for the console.
    """

    def __init__(
        self, folder: ServerFolder, clock: Clock, listener: Callable[[Event], None] = lambda event: None
    ) -> None:
        logging.getLogger("flwr").setLevel(logging.ERROR)
        for name in ("flwr", "uvicorn.error"):
            logging.getLogger(name).addFilter(is_news)
        self._folder = folder
        self._link = Link(
            folder.node_keys(), mismatched=self._other_protocol, roster=lambda: folder.trust.newest.serial
        )
        self._checkpoints = Checkpoints(folder.folder)
        log = folder.folder / "events.jsonl"
        self._history = read_events(log) if log.exists() else []
        self._events = EventLog(log, listeners=(self._history.append, listener), clock=clock)
        self._dates = RosterWatch(folder.roster, clock, lambda kind, text: self._events.emit(kind, text=text))
        self._starts = CoordinatorStarts(folder.folder / STARTS)
        self._checker = Checker(folder.roster, self._link, self._checkpoints, clock, self._events)
        self._cancelled: set[str] = set()
        self._stop = threading.Event()
        self._running: str | None = None
        self._health: HealthServer | None = None
        self._trouble = ""

    def _other_protocol(self, version: int) -> None:
        """Tell the operator that a site speaks another version of the protocol; which site is not known, see `SignedRequests`."""
        self._events.emit("protocol-mismatch", theirs=version, ours=PROTOCOL)

    def stop(self) -> None:
        """Ask the daemon to stop; a running job is resumed at the next start. Callable from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            ConfigError: the port or the socket cannot be opened.
        """
        config = self._folder.config
        raise_open_files()

        def turned_away(text: str) -> None:
            self._events.emit("connections-refused", text=text)

        hospitals = listen_tcp(self._link.app, config.listen, config.port, self._folder.tls(), turned_away)
        admin = listen_unix(make_admin_app(self), self._folder.folder / ADMIN_SOCKET)
        self._health = HealthServer(config.health_port) if config.health_port else None
        self._healthy("")
        self._events.emit("listening", port=config.port, sites=len(self._folder.roster.sites))
        pause_s = IDLE_POLL_S
        try:
            while not self._stop.wait(pause_s):
                pause_s = self._look_for_work(pause_s)
        finally:
            if self._health is not None:
                self._health.close()
            admin.close()
            hospitals.close()
            (self._folder.folder / ADMIN_SOCKET).unlink(missing_ok=True)

    def _look_for_work(self, pause_s: float) -> float:
        """Run the next job, if there is one; return the seconds to wait before the next call.

        A full disk or an unreadable database stops neither the coordinator nor the job: the job keeps its state and is
        resumed when the machine can write again.
        """
        try:
            self._checker.answer(self._stop.is_set)
            row = self._checkpoints.next_active()
            if self._dates.valid() and row is not None:
                self._checkpoints.check_writable(row.job_id)
                self._healthy("")
                self._run_job(row)
            self._healthy("")
        except (StorageError, OSError) as problem:
            self._healthy(describe(problem))
            return min(2 * max(pause_s, 1.0), STORAGE_RETRY_S)
        return IDLE_POLL_S

    def _healthy(self, trouble: str) -> None:
        """Report once, also to the health service, that the machine cannot store data, or that it can again."""
        if self._health is not None:
            self._health.set(serving=not trouble)
        if trouble != self._trouble:
            self._trouble = trouble
            self._events.emit("storage-failed" if trouble else "storage-restored", text=trouble)

    def _run_job(self, row: JobRow) -> None:
        self._running = row.job_id
        grid = self._link.begin_run()
        try:
            who = self._participants(self._checkpoints.begin(row.job_id, self._folder.trust.digest))
            self._events.emit("started", job=row.job_id, rounds=row.job.job.rounds)
            app = make_server_app(
                lambda federation: self._work(row, federation, who),
                lambda: who.present(self._link.directory()),
                lambda: self._must_end(row.job_id),
            )
            app(grid, Context(grid.run.run_id, 1, {}, RecordDict(), {}))
            self._end(row.job_id, "finished")
        except Cancelled:
            if row.job_id in self._cancelled:
                self._end(row.job_id, "cancelled")
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
            self._running = None

    def _participants(self, roster: str) -> Participants:
        trust = self._folder.trust
        return participants(trust.roster(roster or trust.digest), trust.newest, roster or trust.digest)

    def _work(self, row: JobRow, federation: Federation, who: Participants) -> None:
        transcript = Transcript(self._folder.folder / "transcripts" / f"{row.job_id}.jsonl")
        transcript(ROSTER, signed=self._folder.trust.signed(who.roster).model_dump(mode="json"))
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
            cancelled=lambda: self._must_end(row.job_id),
            start=self._starts.of(row.job),
        )
        run_of(attempts).run()
        keep_model(attempts, self._folder.identity)

    def _must_end(self, job_id: str) -> bool:
        """Whether a running job must stop now; it is resumed later unless it was cancelled."""
        return self._stop.is_set() or job_id in self._cancelled or not self._dates.valid()

    def _end(self, job_id: str, status: str, reason: str = "") -> None:
        if status == "finished":
            self._report(job_id)
        self._events.emit("job-ended", job=job_id, status=status, text=reason)
        self._checkpoints.set_status(job_id, status, reason)

    def _report(self, job_id: str) -> None:
        """Write the report and the model card; on a full disk the report is lost, not the job."""
        row = self._checkpoints.job(job_id)
        job, folder, trust = row.job, self._folder.folder, self._folder.trust
        try:
            roster = trust.roster(row.roster or trust.digest)
            card = card_of_job(job, folder / "transcripts" / f"{job_id}.jsonl", roster.keys(), roster.names())
            path, records = folder / "reports" / f"{job_id}.html", self._checkpoints.records(job_id)
            events = [event for event in self._history if event.fields.get("job") == job_id]
            if job.statistics is not None:
                write_statistics_report(path, job, job_id, records, card, events)
                return
            write_report(path, job, job_id, records, events, card, consortium=roster.consortium)
            whole = model_card(job_id, job, card, evaluation_in(events), roster.consortium)
            (folder / "reports" / f"{job_id}.card.json").write_bytes(
                canonical_json(whole.model_dump(mode="json")) + b"\n"
            )
        except (OSError, SalusError) as problem:
            text = problem.strerror or "" if isinstance(problem, OSError) else describe(problem)
            self._events.emit("no-report", job=job_id, text=text)

    # --- called by the admin API ---

    def status(self) -> dict[str, Any]:
        roster = self._folder.roster
        online = self._link.directory()
        return {
            "consortium": roster.consortium,
            "roster": roster.serial,
            "coordinator": roster.coordinator.name,
            "roster_valid_until": roster.valid_until.isoformat(),
            "job": self._running,
            "sites": [
                {"site": site_id, "name": roster.site(site_id).name, "online": site_id in online}
                for site_id in roster.site_ids()
            ],
        }

    def submit(self, text: str, *, anyway: bool = False) -> str:
        job, signed = self._checked_job(text)
        if not anyway:
            self._checker.check(job, signed, self._running).require_possible()
        return self._checkpoints.submit(signed, job.job.name)

    def check(self, text: str) -> dict[str, Any]:
        return self._checker.check(*self._checked_job(text), self._running).to_json()

    def _checked_job(self, text: str) -> tuple[Job, Signed]:
        found = job_or_signed(text)
        signed = seal_job(found, self._folder.identity) if isinstance(found, Job) else found
        job, _ = open_job(signed, self._folder.identity.public_key)
        check_job(job, self._folder.roster.site_ids())
        self._starts.of(job)
        return job, signed

    def cancel(self, job_id: str) -> None:
        self._checkpoints.job(job_id)
        self._cancelled.add(job_id)
        if job_id != self._running:
            self._checkpoints.set_status(job_id, "cancelled")

    def resume(self, job_id: str) -> int:
        """Queue a failed or cancelled job again; returns the number of its finished rounds."""
        self._checkpoints.reopen(job_id)
        self._cancelled.discard(job_id)
        return len(self._checkpoints.records(job_id))

    def jobs(self) -> list[JobRow]:
        return self._checkpoints.jobs()

    def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
        self._checkpoints.job(job_id)
        numbered = enumerate(list(self._history), start=1)
        return [
            {"number": number, **asdict(event), "at": event.at.isoformat()}
            for number, event in numbered
            if number > after and event.fields.get("job") == job_id
        ]

    def result(self, job_id: str) -> dict[str, Any]:
        row = self._checkpoints.job(job_id)
        model = self._checkpoints.model_path(job_id, row.job.job.rounds)
        if row.job.statistics is not None:
            model = self._checkpoints.sums_model_path(job_id)
        report = self._folder.folder / "reports" / f"{job_id}.html"
        records = self._checkpoints.records(job_id)
        found = records[-1].get("result") if records else None
        return {
            "job": job_id,
            "status": row.status,
            "reason": row.reason,
            "rounds": records,
            "statistics": found,
            "transforms": transforms_section(row.job, found) if isinstance(found, dict) else "",
            "classes": row.job.task.classes,
            "of": row.job.job.rounds,
            "absent": self._absent(row),
            "model": str(model) if model.exists() else None,
            "report": str(report) if report.exists() else None,
        }

    def _absent(self, row: JobRow) -> list[dict[str, Any]]:
        """Return the sites that are not asked in a job now, with names and reasons."""
        who = self._participants(row.roster)
        trust = self._folder.trust
        names = {**trust.roster(who.roster).names(), **trust.newest.names()}
        bound = protection_of(row.job).protects and not row.job.privacy.noised
        cohort = self._checkpoints.cohort(scope_of(row.job)) if bound else ()
        absent = who.absent(row.job, self._link.directory(), cohort)
        return [{"site": site, "name": names[site], "reason": reason} for site, reason in absent.items()]
