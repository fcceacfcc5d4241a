"""The site's resident daemon: outbound only, one message at a time, reconnecting for as long as it takes.

disconnected ──activate──> waiting ──message──> working ──reply sent──> waiting
     ^                        │                    │
     └──── any link error ────┴────────────────────┘     back-off: doubling from 1 s to the configured limit
"""

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from salus.client.app import make_client_app
from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import Clock
from salus.common.errors import LinkError, Refused, describe
from salus.common.events import Event, EventLog
from salus.common.expiry import RosterWatch
from salus.common.health import DATA, HealthServer
from salus.common.packets import pack, refusal

HEARTBEAT_S = 12.0  # the coordinator forgets a silent site after 60 s
FIRST_PAUSE_S = 1.0
MAX_BEGUN = 2
SEND_TRIES = 4  # after that, the round has continued without this reply


class Attempts:
    """Remembers on disk which request is being processed, so that one that crashes the process is tried at most twice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, identifier: str) -> bool:
        """Record that work begins; return False if this request was begun `MAX_BEGUN` times and never finished."""
        begun = 1
        if self._path.exists():
            last, _, count = self._path.read_text().partition(" ")
            begun = int(count) + 1 if last == identifier and count.isdecimal() else 1
        if begun > MAX_BEGUN:
            return False
        self._path.write_text(f"{identifier} {begun}")
        return True

    def end(self) -> None:
        """Record that work has ended."""
        self._path.unlink(missing_ok=True)


class SiteDaemon:
    """Serves one site until `stop` is called.

    Args:
        listener: called with each line for the operator's console, and whether it is an alarm.
    """

    def __init__(
        self, folder: SiteFolder, clock: Clock, listener: Callable[[str, bool], None] = lambda line, alarm: None
    ) -> None:
        logging.getLogger("flwr").setLevel(logging.WARNING)
        self._folder = folder
        self._clock = clock
        self._tell = listener
        self._events = EventLog(folder.folder / "events.jsonl", clock=clock, listeners=(self._show,))
        self._dates = RosterWatch(lambda: folder.roster, clock, self._say_dates)
        self._site = site = folder.site(self._events, clock)
        self._attempts = Attempts(folder.folder / "working.json")
        self._app: ClientApp = make_client_app(lambda context: site)
        self._stop = threading.Event()
        self._health = HealthServer(folder.config.health_port) if folder.config.health_port else None
        self._site.recheck()
        self._data_state()
        for trouble in self._site.troubles():
            self._tell(trouble.line, True)

    def stop(self) -> None:
        """Ask the daemon to stop after the current message; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped; link errors never end it."""
        pause_s = FIRST_PAUSE_S
        limit = self._folder.config.performance.job_limit_bytes()
        with FleetLink(
            self._folder.roster.coordinator.url, self._folder.tls(), self._folder.node_key, max_message_bytes=limit
        ) as link:
            heart = threading.Thread(target=self._beat, args=(link,), daemon=True)
            heart.start()
            while not self._stop.is_set():
                try:
                    node = link.activate()
                    self._state("connected")
                    pause_s = FIRST_PAUSE_S
                    self._serve(link, node)
                except Exception as problem:  # no message may stop a hospital's daemon
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
            self._dates.valid()  # warns well before the roster expires
            message = link.receive()
            if message is None:
                self._site.recheck()
                continue
            self._state("working")
            self._deliver(link, self._answer(message, context))
            self._state("connected")

    def _answer(self, message: Message, context: Context) -> Message:
        """Return the app's reply, or a refusal; a request that has crashed this process twice is not tried again."""
        try:
            self._dates.check()
            if not self._attempts.begin(message.metadata.message_id):
                raise Refused(
                    "This request has crashed the site's process before.", remedy="See the site's system log."
                )
            return self._app(message, context)
        except Exception as problem:
            self._events.emit("refused", error=type(problem).__name__, text=describe(problem))
            return Message(pack(refusal(self._folder.site_id, problem, describe(problem))), reply_to=message)
        finally:
            self._attempts.end()

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

    def _say_dates(self, kind: str, text: str) -> None:
        self._events.emit(kind, text=text)
        self._tell(text, True)

    def _state(self, state: str, text: str = "") -> None:
        if self._health is not None:
            self._health.set(serving=state in ("connected", "working"))
        if state != "working":
            self._events.emit(state, text=text)
        self._tell(f"{state}: {text}" if text else state, False)

    def _show(self, event: Event) -> None:
        """Show urgent events on the console, and report the data's state to the health service."""
        line = console_line(event)
        if line:
            self._tell(line, event.kind == "data-trouble")
        if event.kind in ("data-trouble", "data-mended"):
            self._data_state()

    def _data_state(self) -> None:
        if self._health is not None:
            self._health.set(serving=not self._site.troubles(), service=DATA)


def console_line(event: Event) -> str:
    """Return the console line of an event, or an empty string if it belongs in the log only."""
    fields = event.fields
    match event.kind:
        case "data-trouble":
            return f"Data set {fields['dataset']!r}: {fields['text']}"
        case "data-mended":
            return f"Data set {fields['dataset']!r} can be read again."
        case "reserved":
            share = float(str(fields["epsilon"])) / float(str(fields["budget_epsilon"]))
            return (
                f"Accepted {fields['job']!r}: it reserves epsilon {fields['epsilon']:.3g} of the {fields['budget_epsilon']:g} "
                f"that each patient of {fields['dataset']!r} may spend in {fields['period_days']} days ({share:.0%})."
            )
        case "refused":
            return f"Refused: {fields['text']}"
        case _:
            return ""
