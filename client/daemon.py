"""The site's resident daemon: outbound only, one message at a time, reconnecting for as long as it takes.

disconnected ──activate──> waiting ──message──> working ──reply sent──> waiting
     ^                        │                    │
     └──── any link error ────┴────────────────────┘     back-off: doubling from 1 s to the configured limit

It holds the link and looks at dates, hours and stopped jobs. Everything else is the worker's, see `executors`: this process
imports no torch, and lives through whatever happens to the other.
"""

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from salus.client.config import SiteFolder
from salus.client.console_lines import console_line
from salus.client.executors.base import Backend, Executor, Listener, NotStarted
from salus.client.executors.hours import check_hours
from salus.client.executors.process import ProcessBackend
from salus.client.executors.stopped import WORKING
from salus.client.link import FleetLink
from salus.client.link_direct import Delivery
from salus.client.policy import load_policy
from salus.client.renewing import RosterReceiver
from salus.common.clock import Clock
from salus.common.errors import ConfigError, LinkError, Outdated, Refused, describe
from salus.common.events import Event, EventLog, Value
from salus.common.expiry import RosterWatch
from salus.common.health import DATA
from salus.common.monitoring import Monitoring
from salus.common.packets import MESSAGE_TYPES, Reply, Request, header_of, refusal, reply_of, request_of, require_type
from salus.common.progress import Progress, Step

if TYPE_CHECKING:
    from salus.client.metrics import SiteMetrics

HEARTBEAT_S = 12.0  # the coordinator forgets a silent site after 60 s
FIRST_PAUSE_S = 1.0
MAX_BEGUN = 2
AWAY = ("disconnected", "outdated")
SEND_TRIES = 4  # after that, the round has continued without this reply


class Attempts:
    """Remembers on disk which request is being processed, so that one that crashes the process is tried at most twice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, identifier: str, job: str = "") -> bool:
        """Record that work begins; return False if this request was begun `MAX_BEGUN` times and never finished.

        Args:
            job: id of its job, for `salus client stop-job`.
        """
        begun = 1
        if self._path.exists():
            last, count, *_ = [*self._path.read_text().split(), "", ""]
            begun = int(count) + 1 if last == identifier and count.isdecimal() else 1
        if begun > MAX_BEGUN:
            return False
        self._path.write_text(f"{identifier} {begun} {job}")
        return True

    def end(self) -> None:
        """Record that work has ended."""
        self._path.unlink(missing_ok=True)


class SiteDaemon:
    """Serves one site until `stop` is called.

    Args:
        listener: called with each line for the operator's console, and whether it is an alarm.
        backend: where it works; None for what ``site.toml`` says.
        watch: called with every event.

    Raises:
        ConfigError: the worker cannot start, for the reason that it names.
    """

    def __init__(
        self,
        folder: SiteFolder,
        clock: Clock,
        listener: Callable[[str, bool], None] = lambda line, alarm: None,
        backend: Backend | None = None,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> None:
        logging.getLogger("flwr").setLevel(logging.WARNING)
        self._folder = folder
        self._clock = clock
        self._tell = listener
        metrics = metrics_of(folder)
        listeners = (self._show, watch, metrics.event) if metrics is not None else (self._show, watch)
        self._events = EventLog(folder.folder / "events.jsonl", clock=clock, listeners=listeners, rotates=True)
        self._last_state = "", ""
        self._dates = RosterWatch(lambda: folder.roster, clock, self._say_dates)
        self._rosters = RosterReceiver(folder, clock, self._events, listener)
        self._attempts = Attempts(folder.folder / WORKING)
        self._troubles: list[str] = []
        self._progress, self._percents = Progress(), False
        told = Listener(self._event, self._progressed, self._data_state)
        settings = folder.config.executor
        self._executor = Executor(
            folder.folder, backend or backend_of(folder), settings.idle_minutes, clock, told, settings.stuck_minutes
        )
        self._stop = threading.Event()
        text = metrics.text if metrics is not None else bytes
        self._health = Monitoring(folder.config.health_port, folder.config.monitoring, text)
        try:
            self._executor.try_start()
        except NotStarted as problem:
            error = ConfigError(problem.text, remedy="")
            error.exit_code = problem.exit_code
            raise error from None
        for line in self._troubles:
            self._tell(line, True)

    def stop(self) -> None:
        """Ask the daemon to stop after the current message; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped; link errors never end it."""
        try:
            self._connect()
        finally:
            self._executor.close()
        self._state("stopped")
        self._health.close()

    def _connect(self) -> None:
        pause_s = FIRST_PAUSE_S
        limit = self._folder.config.performance.job_limit_bytes()
        with FleetLink(
            self._folder.roster.coordinator.url, self._folder.tls(), self._folder.node_key, max_message_bytes=limit
        ) as link:
            heart = threading.Thread(target=self._beat, args=(link,), daemon=True)
            heart.start()
            while not self._stop.is_set():
                try:
                    link.activate()
                    self._state("connected")
                    pause_s = FIRST_PAUSE_S
                    self._serve(link)
                except Exception as problem:  # no message may stop a hospital's daemon
                    state = "outdated" if isinstance(problem, Outdated) else "disconnected"
                    self._state(state, text=describe(problem))
                    self._rosters.follow(link)
                    self._look()
                    # Jitter, so that all sites of a restarted coordinator do not return in the same instant.
                    self._stop.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                    pause_s = min(pause_s * 2, self._folder.config.reconnect_max_s)

    def _serve(self, link: FleetLink) -> None:
        while not self._stop.is_set():
            self._dates.valid()  # warns well before the roster expires
            delivery = link.take()
            self._rosters.follow(link)
            if delivery is None:
                self._look()
                continue
            if delivery.meta.type == MESSAGE_TYPES["roster"]:
                self._deliver(link, delivery, *self._rosters.answer(delivery.header, delivery.blob))
                self._rosters.follow(link)
                continue
            self._state("working")
            self._percents = self._shares_percents()
            self._progress = Progress(request=delivery.meta.message, step="checking")
            header, blob = self._answer(delivery)
            self._progressed("sending", 0)
            self._deliver(link, delivery, header, blob)
            self._progress = Progress()
            self._state("connected")

    def _look(self) -> None:
        """Let the worker look at its data, or end it after a long rest."""
        try:
            self._executor.look()
        except Exception as problem:  # whatever happens to the worker, the daemon goes on
            self._events.emit("worker-ended", text=text_of(problem))

    def _answer(self, delivery: Delivery) -> tuple[bytes, bytes]:
        """Return the worker's reply, or a refusal; a request that has crashed this process twice is not tried again."""
        try:
            self._dates.check()
            request = request_of(delivery.header)
            require_type(request, delivery.meta.type)
            if not self._attempts.begin(delivery.meta.message, request.job_id):
                raise Refused(
                    "This request has crashed the site's process before.", remedy="See the site's system log."
                )
            return self._reply(request, delivery.blob)
        except Exception as problem:
            self._events.emit("refused", error=type(problem).__name__, text=text_of(problem))
            return header_of(refusal(self._folder.site_id, problem, describe(problem))), b""
        finally:
            self._attempts.end()

    def _reply(self, request: Request, blob: bytes) -> tuple[bytes, bytes]:
        if request.kind == "hello":
            return header_of(Reply(kind="ok", site=self._folder.site_id)), b""
        check_hours(self._folder.config.executor.hours, request.kind, self._clock.now())
        header, answer = self._executor.ask(request.job_id, header_of(request), blob)
        return header_of(reply_of(header)), answer

    def _deliver(self, link: FleetLink, delivery: Delivery, header: bytes, blob: bytes) -> None:
        for attempt in range(1, SEND_TRIES + 1):
            try:
                link.answer(delivery, header, blob)
                return
            except LinkError:
                if attempt == SEND_TRIES:
                    raise
                self._clock.sleep(FIRST_PAUSE_S * attempt)

    def _beat(self, link: FleetLink) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                link.heartbeat(self._progress)
            except LinkError:
                continue  # the main loop meets the same error and connects again

    def _say_dates(self, kind: str, text: str) -> None:
        self._events.emit(kind, text=text)
        self._tell(text, True)

    def _state(self, state: str, text: str = "") -> None:
        """Say in what state the link is; a state that lasts, such as the wait for an upgrade, is said once."""
        self._health.set(serving=state in ("connected", "working"))
        if state in AWAY and self._last_state == (state, text):
            return
        if state != "working":
            self._last_state = state, text
            self._events.emit(state, text=text)
        self._tell(f"{state}: {text}" if text else state, state == "outdated")

    def _show(self, event: Event) -> None:
        """Show urgent events on the console."""
        line = console_line(event)
        if line:
            self._tell(line, event.kind == "data-trouble")

    def _event(self, kind: str, fields: dict[str, Value]) -> None:
        self._events.emit(kind, **fields)

    def _progressed(self, step: Step, percent: int) -> None:
        """Keep how far the work is, for the next heartbeat; of that, what the policy shares."""
        shared = percent if self._percents else 0
        self._progress = Progress(request=self._progress.request, step=step, percent=shared)

    def _shares_percents(self) -> bool:
        """Return whether the coordinator may learn percentages; a policy that cannot be read shares none."""
        try:
            return load_policy(self._folder.folder / "policy.toml").share_progress == "percent"
        except ConfigError:
            return False

    def _data_state(self, troubles: list[str]) -> None:
        """Report the data's state to the health service."""
        self._troubles = troubles
        self._health.set(serving=not troubles, service=DATA)


def metrics_of(folder: SiteFolder) -> "SiteMetrics | None":
    """Return what counts for Prometheus; None unless the operator opened the port."""
    if not folder.config.monitoring.http_port:
        return None
    from salus.client.metrics import SiteMetrics

    return SiteMetrics(folder.folder)


def backend_of(folder: SiteFolder) -> Backend:
    """Return where a site works, as its settings say."""
    settings = folder.config.executor
    if settings.kind == "slurm":
        from salus.client.executors.slurm import SlurmBackend

        return SlurmBackend(folder.folder, settings)
    return ProcessBackend(folder.folder, memory_mb=settings.memory_mb, threads=folder.config.performance.threads)


def text_of(problem: BaseException) -> str:
    """Return a problem for the site's operator."""
    return problem.text if isinstance(problem, NotStarted) else describe(problem)
