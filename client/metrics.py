"""A site's metrics for Prometheus: whether it is connected and how often it answered; nothing about patients, data or jobs.

Numbers of patients, images, rounds or refusals by reason are not shown: over time they would say who is treated here.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from salus.common.events import Event

LINK = ("connected", "disconnected", "outdated", "stopped")


class SiteMetrics:
    """Counts what happens at one site.

    Args:
        folder: the site's, whose free space is shown.
    """

    def __init__(self, folder: Path) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._lost = Counter("salus_connections_lost", "Times at which the link was lost.", registry=self._registry)
        self._state = _State(folder)
        self._registry.register(self._state)

    def event(self, event: Event) -> None:
        """Count an event."""
        if event.kind in LINK:
            if self._state.connected and event.kind != "connected":
                self._lost.inc()
            self._state.connected = event.kind == "connected"
            self._state.outdated = event.kind == "outdated"

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is so at the moment of asking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.connected = self.outdated = False

    def describe(self) -> Iterator[Metric]:
        return iter(())  # see `collect`

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("salus_connected", "Whether the coordinator is connected.", int(self.connected))
        text = "Whether this site is too old for the coordinator and waits for its upgrade."
        yield GaugeMetricFamily("salus_outdated", text, int(self.outdated))
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return
        yield GaugeMetricFamily("salus_disk_free_bytes", "Free space of the site's folder.", free)
