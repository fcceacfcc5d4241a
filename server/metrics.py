"""The coordinator's metrics for Prometheus: counted from its events, and read from its state when they are asked for.

No label names a hospital, a job or a data set: the labels are fixed words.
"""

import shutil
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salus.common.allowed import LARGEST, OTHER
from salus.common.events import Event

STEPS = ("train", "measure", "evaluate", "shares", "masked", "consent", "unmask", "combine", "server")
STATES = ("waiting", "running", "paused", "finished", "failed", "cancelled", "aborted")
EVENTS = {
    "round": ("rounds", "Rounds that were completed."),
    "attempt": ("attempts", "Attempts at a round that were begun."),
    "abandoned": ("attempts_abandoned", "Attempts that ended without a sum."),
    "left-out": ("replies_left_out", "Replies of sites that were missing or refused."),
    "answered": ("replies", "Replies of sites that were accepted."),
    "connections-refused": ("connections_refused", "Minutes in which connections were refused at the port for sites."),
    "storage-failed": ("storage_failures", "Times at which the machine could not store data."),
}


class CoordinatorMetrics:
    """Counts what happens, and shows what is.

    Args:
        folder: the coordinator's, whose free space is shown.
        online: returns the number of sites that are online, and of those on the roster.
        jobs: returns the states of all jobs.
    """

    def __init__(self, folder: Path, online: Callable[[], tuple[int, int]], jobs: Callable[[], Iterable[str]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._counted = {
            kind: Counter(f"salus_{name}", text, registry=self._registry) for kind, (name, text) in EVENTS.items()
        }
        self._ended = Counter("salus_jobs_ended", "Jobs that have ended, by how.", ["status"], registry=self._registry)
        self._seconds = Counter(
            "salus_step_seconds", "Seconds in each step of completed rounds.", ["step"], registry=self._registry
        )
        self._bytes = Counter(
            "salus_link_bytes", "Bytes of bodies from and to sites.", ["direction"], registry=self._registry
        )
        self._received, self._sent = self._bytes.labels("received"), self._bytes.labels("sent")
        self._registry.register(_State(folder, online, jobs))

    def event(self, event: Event) -> None:
        """Count an event."""
        counter = self._counted.get(event.kind)
        if counter is not None:
            counter.inc()
        if event.kind == "job-ended":
            status = str(event.fields.get("status"))
            self._ended.labels(status if status in STATES else OTHER).inc()
        seconds = event.fields.get("seconds")
        if event.kind == "round" and isinstance(seconds, dict):
            for step, spent in seconds.items():
                if isinstance(spent, int | float) and 0 <= spent < LARGEST:
                    self._seconds.labels(step if step in STEPS else OTHER).inc(spent)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return the app with its bodies counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def receiving() -> Message:
                message = await receive()
                self._received.inc(len(message.get("body", b"")))
                return message

            async def sending(message: Message) -> None:
                self._sent.inc(len(message.get("body", b"")))
                await send(message)

            await app(scope, receiving, sending)

        return counted

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is so at the moment of asking."""

    def __init__(self, folder: Path, online: Callable[[], tuple[int, int]], jobs: Callable[[], Iterable[str]]) -> None:
        self._folder, self._online, self._jobs = folder, online, jobs

    def describe(self) -> Iterator[Metric]:
        return iter(())  # asked at registration, when the daemon is not whole yet

    def collect(self) -> Iterator[Metric]:
        online, known = self._online()
        yield GaugeMetricFamily("salus_sites_online", "Sites that are connected.", online)
        yield GaugeMetricFamily("salus_sites", "Sites on the roster.", known)
        try:
            usage = shutil.disk_usage(self._folder)
            yield GaugeMetricFamily("salus_disk_free_bytes", "Free space of the coordinator's folder.", usage.free)
            states = Tally(state if state in STATES else OTHER for state in self._jobs())
        except Exception:
            return  # a disk or a database that cannot be read: the other numbers are still shown
        family = GaugeMetricFamily("salus_jobs", "Jobs by state.", labels=["state"])
        for state in (*STATES, OTHER):
            family.add_metric([state], states[state])
        yield family
