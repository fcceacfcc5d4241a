"""The site's resident daemon: outbound only, one message at a time, reconnecting for as long as it takes.

disconnected ──activate──> waiting ──message──> working ──reply sent──> waiting
     ^                        │                    │
     └──── any link error ────┴────────────────────┘     back-off: doubling from 1 s to the configured limit
"""

import logging
import random
import threading
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from salus.client.app import make_client_app
from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import Clock
from salus.common.errors import LinkError, SalusError, describe
from salus.common.events import EventLog
from salus.common.health import HealthServer

HEARTBEAT_S = 12.0  # the coordinator forgets a silent site after 60 s
FIRST_PAUSE_S = 1.0
SEND_TRIES = 4  # a reply that cannot be delivered belongs to a round that has gone on without it


class SiteDaemon:
    """Serves one site until `stop` is called.

    Args:
        listener: told of state changes in one word, for the console.
    """

    def __init__(self, folder: SiteFolder, clock: Clock, listener: Callable[[str], None] = lambda state: None) -> None:
        logging.getLogger("flwr").setLevel(logging.WARNING)
        self._folder = folder
        self._clock = clock
        self._tell = listener
        self._events = EventLog(folder.folder / "events.jsonl", clock=clock)
        site = folder.site(self._events)
        self._app: ClientApp = make_client_app(lambda context: site)
        self._stop = threading.Event()
        self._health = HealthServer(folder.config.health_port) if folder.config.health_port else None

    def stop(self) -> None:
        """Ask the daemon to end after the message it works on; callable from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped; link errors never end it."""
        pause_s = FIRST_PAUSE_S
        with FleetLink(self._folder.roster.coordinator.url, self._folder.tls(), self._folder.node_key) as link:
            heart = threading.Thread(target=self._beat, args=(link,), daemon=True)
            heart.start()
            while not self._stop.is_set():
                try:
                    node = link.activate()
                    self._state("connected")
                    pause_s = FIRST_PAUSE_S
                    self._serve(link, node)
                except SalusError as problem:
                    self._state("disconnected", text=describe(problem))
                    # Jitter, so that all sites of a restarted coordinator do not return in the same instant.
                    self._stop.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                    pause_s = min(pause_s * 2, self._folder.config.reconnect_max_s)
        self._state("stopped")
        if self._health is not None:
            self._health.close()

    def _serve(self, link: FleetLink, node: int) -> None:
        context = Context(0, node, {}, RecordDict(), {})
        while not self._stop.is_set():
            message = link.receive()
            if message is None:
                continue
            self._state("working")
            self._deliver(link, self._app(message, context))
            self._state("connected")

    def _deliver(self, link: FleetLink, reply: Message) -> None:
        for attempt in range(1, SEND_TRIES + 1):
            try:
                link.send(reply)
                return
            except LinkError:
                if attempt == SEND_TRIES:
                    raise
                self._clock.sleep(FIRST_PAUSE_S * attempt)

    def _beat(self, link: FleetLink) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                link.heartbeat()
            except LinkError:
                continue  # the main loop meets the same error and connects again

    def _state(self, state: str, text: str = "") -> None:
        if self._health is not None:
            self._health.set(serving=state in ("connected", "working"))
        if state != "working":
            self._events.emit(state, text=text)
        self._tell(f"{state}: {text}" if text else state)
