"""The coordinator's daemon: the port for sites, the local admin socket, and its jobs, resumed after any crash.

Which jobs run and which wait: `scheduling`. How one runs: `running`. Which job a site works for: `turns`.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from salus.common.clock import Clock
from salus.common.errors import JobError, StorageError, describe
from salus.common.events import Event, EventLog
from salus.common.expiry import RosterWatch
from salus.common.history import History
from salus.common.identity import Signed
from salus.common.job import Job, open_job, seal_job
from salus.common.monitoring import Monitoring
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.common.versions import PROTOCOL
from salus.server.admin import make_admin_app
from salus.server.canary import try_out
from salus.server.checking import Checker
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.checks import check_job
from salus.server.config import ADMIN_SOCKET, ServerFolder
from salus.server.door import raise_open_files
from salus.server.farewell import Farewells
from salus.server.link import Link
from salus.server.listen import listen_tcp, listen_unix
from salus.server.membership import Membership
from salus.server.metrics import CoordinatorMetrics
from salus.server.outline import OUTLINES, Outlines, outline_of
from salus.server.reporting import Reports
from salus.server.running import Control, JobRunner
from salus.server.scheduling import DRAINING, Place, Scheduler
from salus.server.showing import absent_from, progress_of
from salus.server.statistics_report import transforms_section
from salus.server.submission import job_or_signed
from salus.server.turns import Turns
from salus.server.wishes import Wishes

IDLE_POLL_S = 0.2
ENDED = ("finished", "aborted")
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
            folder.node_keys(),
            mismatched=self._other_protocol,
            roster=lambda: folder.trust.newest.serial,
            folder=folder.folder,
            wrong_clock=lambda site, text: self._events.emit("clock-differs", site=site, text=text),
        )
        self._checkpoints = Checkpoints(folder.folder, folder.engine())
        log = folder.folder / "events.jsonl"
        self._history = History(log)
        self._metrics = CoordinatorMetrics(folder.folder, self._online, self._job_states)
        listeners = (self._history, listener, self._metrics.event)
        self._events = EventLog(log, listeners=listeners, clock=clock, rotates=True)
        self._dates = RosterWatch(lambda: folder.roster, clock, lambda kind, text: self._events.emit(kind, text=text))
        self._starts = CoordinatorStarts(folder.folder / STARTS)
        self._outlines = Outlines(folder.folder / OUTLINES)
        self._membership = Membership(folder, self._link, self._events, clock)
        self._turns = turns = Turns(self._link.progress, clock)
        self._checker = Checker(lambda: folder.roster, self._link, self._checkpoints, clock, self._events, turns)
        self._reports = Reports(folder, self._checkpoints, self._events, self._history)
        self._farewells = Farewells(folder.folder, self._link, self._checkpoints, self._events, turns)
        self._runner = JobRunner(
            folder, self._link, self._checkpoints, self._events, self._reports, self._starts, turns, self._aborted,
            self._membership.waiting,
        )  # fmt: skip
        self._scheduler = Scheduler(
            self._checkpoints, self._run_job, folder.config.max_running_jobs, self._dates.valid,
            Wishes(folder.folder), self._end,
        )  # fmt: skip
        self._stop = threading.Event()
        self._health: Monitoring | None = None
        self._trouble = ""

    def _other_protocol(self, version: int) -> None:
        """Tell the operator that a site speaks another version of the protocol; which site is not known, see `SignedRequests`."""
        self._events.emit("protocol-mismatch", theirs=version, ours=PROTOCOL)

    def stop(self) -> None:
        """Ask the daemon to stop; a running job is resumed at the next start. Callable from a signal handler."""
        self._scheduler.stop()
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

        app = self._metrics.counting(self._link.app)
        hospitals = listen_tcp(app, config.listen, config.port, self._folder.tls(), turned_away)
        self._membership.port = hospitals.renew
        admin = listen_unix(make_admin_app(self), self._folder.folder / ADMIN_SOCKET)
        members = threading.Thread(target=self._membership.run, args=(self._stop,), daemon=True)
        members.start()
        self._health = Monitoring(config.health_port, config.monitoring, self._metrics.text)
        self._healthy("")
        self._events.emit("listening", port=config.port, sites=len(self._folder.roster.sites))
        pause_s = IDLE_POLL_S
        try:
            while not self._stop.wait(pause_s):
                pause_s = self._look_for_work(pause_s)
        finally:
            self.stop()
            self._checkpoints.stopping.set()
            self._scheduler.join()
            members.join()
            self._farewells.join()
            if self._health is not None:
                self._health.close()
            admin.close()
            self._link.close()
            hospitals.close()
            self._checkpoints.close()
            (self._folder.folder / ADMIN_SOCKET).unlink(missing_ok=True)

    def _look_for_work(self, pause_s: float) -> float:
        """Begin the jobs that are due; return the seconds to wait before the next call.

        A full disk or an unreadable database stops neither the coordinator nor a job: the job keeps its state and is
        resumed when the machine can write again.
        """
        try:
            self._checker.answer(self._stop.is_set)
            self._farewells.look(self._stop.is_set)
            self._reports.write_late()
            self._scheduler.begin_due(lambda: self._healthy(""))
            self._healthy("")
        except (StorageError, OSError) as problem:
            self._healthy(describe(problem))
            return min(2 * max(pause_s, 1.0), STORAGE_RETRY_S)
        return IDLE_POLL_S

    def _run_job(self, row: JobRow) -> None:
        job, jobs = row.job_id, self._scheduler
        self._runner.run(
            row, Control(partial(jobs.must_end, job), partial(jobs.must_pause, job), partial(jobs.wish, job))
        )

    def _online(self) -> tuple[int, int]:
        return len(self._link.directory()), len(self._folder.roster.sites)

    def _job_states(self) -> list[str]:
        return [row.status for row in self._checkpoints.jobs()]

    def _end(self, job_id: str, status: str) -> None:
        """End a job that does not run."""
        if status == "aborted":
            self._aborted(self._checkpoints.job(job_id))
        else:
            self._checkpoints.set_status(job_id, status)

    def _aborted(self, row: JobRow) -> None:
        """End a job for good, when it has stopped."""
        self._farewells.abort(row, self._folder.roster.site_ids())

    def _healthy(self, trouble: str) -> None:
        """Report once, also to the health service, that the machine cannot store data, or that it can again."""
        if self._health is not None:
            self._health.set(serving=not trouble)
        if trouble != self._trouble:
            self._trouble = trouble
            self._events.emit("storage-failed" if trouble else "storage-restored", text=trouble)

    # --- called by the admin API ---

    def status(self) -> dict[str, Any]:
        roster = self._folder.roster
        online, fetched = self._link.directory(), self._membership.rosters()
        return {
            "consortium": roster.consortium,
            "roster": roster.serial,
            "coordinator": roster.coordinator.name,
            "roster_valid_until": roster.valid_until.isoformat(),
            "jobs": list(self._scheduler.running()),
            "queue": self._waiting(),
            "storage": self._trouble,
            "sites": [
                {
                    "site": site_id,
                    "name": roster.site(site_id).name,
                    "online": site_id in online,
                    "roster": fetched[site_id].serial if site_id in fetched else None,
                    "roster_problem": fetched[site_id].problem if site_id in fetched else "",
                }
                for site_id in roster.site_ids()
            ],
        }

    def _waiting(self) -> int | None:
        """Return how many jobs wait; None while the database cannot be read, as on a full disk."""
        try:
            return len(self._scheduler.queue())
        except StorageError:
            return None

    def take_roster(self) -> dict[str, Any]:
        return self._membership.take()

    def submit(self, text: str, *, anyway: bool = False) -> str:
        job, signed = self._checked_job(text)
        if not anyway:
            self._checker.check(job, signed).require_possible()
        return self._checkpoints.submit(signed, job.job.name)

    def check(self, text: str) -> dict[str, Any]:
        return self._checker.check(*self._checked_job(text)).to_json()

    def canary(self, text: str) -> dict[str, Any]:
        """Try a job out over the sites that are online, see `canary`."""
        job, signed = self._checked_job(text)
        outline = self._outlines.of(job)
        if outline is None and job.statistics is None:
            outline = outline_of(job, self._starts.of(job))
        digest, stopped = self._folder.trust.digest, self._stop.is_set
        who = self._runner.participants(digest)
        return try_out(job, signed, self._link, who, digest, outline, self._turns, stopped)

    def _checked_job(self, text: str) -> tuple[Job, Signed]:
        found = job_or_signed(text)
        signed = seal_job(found, self._folder.identity) if isinstance(found, Job) else found
        job, _ = open_job(signed, self._folder.identity.public_key)
        outline = self._outlines.of(job)
        check_job(job, self._folder.roster.site_ids(), outline)
        if outline is None:
            self._starts.of(job)
        return job, signed

    def cancel(self, job_id: str) -> None:
        self._scheduler.cancel(job_id)

    def pause(self, job_id: str, *, after_round: bool) -> bool:
        """Pause a job and return whether it still runs.

        Args:
            after_round: let the round in progress end first.
        """
        return self._scheduler.end(job_id, DRAINING if after_round else "paused")

    def abort(self, job_id: str) -> bool:
        """End a job for good and return whether it still runs; sites that are offline are told when they come back."""
        row = self._checkpoints.job(job_id)
        if row.status in ENDED:
            raise JobError(f"The job {job_id!r} is {row.status}.", remedy="There is nothing to abort.")
        return self._scheduler.end(job_id, "aborted")

    def resume(self, job_id: str) -> int:
        """Queue a failed or cancelled job again; returns the number of its finished rounds."""
        self._scheduler.reopen(job_id)
        return len(self._checkpoints.records(job_id))

    def jobs(self) -> list[tuple[JobRow, Place | None]]:
        places = {place.row.job_id: place for place in self._scheduler.queue()}
        return [(row, places.get(row.job_id)) for row in self._checkpoints.jobs()]

    def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
        self._checkpoints.job(job_id)
        return [
            {"number": number, **asdict(event), "at": event.at.isoformat()}
            for number, event in self._history.of(job_id, after)
        ]

    def result(self, job_id: str) -> dict[str, Any]:
        row = self._checkpoints.job(job_id)
        model = self._checkpoints.model_path(job_id, row.job.job.rounds)
        if row.job.statistics is not None:
            model = self._checkpoints.sums_model_path(job_id)
        report = self._folder.folder / "reports" / f"{job_id}.html"
        records = self._checkpoints.records(job_id)
        found = records[-1].get("result") if records else None
        place = next((place for place in self._scheduler.queue() if place.row.job_id == job_id), None)
        return {
            "job": job_id,
            "status": row.status,
            "place": place.place if place else None,
            "reason": place.reason if place else row.reason,
            "rounds": records,
            "statistics": found,
            "transforms": transforms_section(row.job, found) if isinstance(found, dict) else "",
            "classes": row.job.task.classes,
            "of": row.job.job.rounds,
            "absent": absent_from(row, self._runner, self._folder.trust, self._link, self._checkpoints),
            "progress": progress_of(self._link) if row.status == "running" else [],
            "model": str(model) if model.exists() else None,
            "report": str(report) if report.exists() else None,
        }
