"""What a site does with a roster that the coordinator sends: check it against the pinned consortium key, and install it.

    empty request  ──> answered with the serial and hash of the roster that is here
    kit            ──> every check of `salus client join`; installed whole, or refused and shown to the operator

The kit also has the site's new transport certificate, made for the key that the site already has. No private key leaves
the site, and nothing in a kit is secret. The coordinator can withhold a newer roster; it cannot change one or go back to one.
"""

from collections.abc import Callable
from datetime import date

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import Clock
from salus.common.errors import SalusError, WireError, describe
from salus.common.events import EventSink
from salus.common.kit import received_kit
from salus.common.packets import MESSAGE_TYPES, Reply, header_of, refusal, request_of, require_type
from salus.common.roster import changes
from salus.common.trust import install_kit

MAX_SHOWN = 500
REFUSALS_A_DAY = 20  # that the operator is told; a coordinator could fill the log otherwise


class RosterReceiver:
    """Answers the requests of kind ``roster`` of one site.

    Args:
        folder: renewed when a kit has been installed.
        tell: called with a line for the operator's console, and whether it is an alarm.
    """

    def __init__(self, folder: SiteFolder, clock: Clock, events: EventSink, tell: Callable[[str, bool], None]) -> None:
        self._folder, self._clock, self._events, self._tell = folder, clock, events, tell
        self._refused: tuple[date, set[str]] = (date.min, set())
        self._linked = folder.trust

    def follow(self, link: FleetLink) -> None:
        """Use the kit that is installed now, whoever brought it, for the link's next connections, too."""
        self._renew()
        if self._folder.trust is self._linked:
            return
        self._linked = self._folder.trust
        try:
            link.renew(self._folder.roster.coordinator.url, self._folder.tls())
        except SalusError as problem:  # the open connections stay
            self._say(problem)

    def answer(self, header: bytes, blob: bytes) -> tuple[bytes, bytes]:
        """Return header and blob of the reply to a request; never raises for what the other side sent."""
        site = self._folder.site_id
        try:
            request = request_of(header)
            require_type(request, MESSAGE_TYPES["roster"])
            if blob and request.roster != self._folder.trust.digest:
                self._install(blob)
        except SalusError as problem:
            self._say(problem)
            return header_of(refusal(site, problem, describe(problem)[:MAX_SHOWN])), b""
        except Exception as problem:  # nothing that a coordinator sends may stop a hospital's daemon
            self._say(problem)
            return header_of(refusal(site, problem, describe(problem))), b""
        trust = self._folder.trust
        return header_of(Reply(kind="ok", site=site)), f"{trust.newest.serial} {trust.digest}".encode()

    def _install(self, blob: bytes) -> None:
        kit = received_kit(blob)
        if kit.sites:
            raise WireError("Expected this site's kit, got the coordinator's.", remedy="Update the coordinator.")
        install_kit(self._folder.folder, kit, self._clock)
        self._renew()

    def _renew(self) -> None:
        """Use the kit that is installed now; tell the operator if it is another one."""
        before = self._folder.roster
        if not self._folder.renew():
            return
        after = self._folder.roster
        found = changes(before, after)
        self._events.emit(
            "roster-installed", serial=after.serial, sites=len(after.sites),
            joined=found.joined, left=found.left, rekeyed=found.rekeyed, text=found.sentence(),
        )  # fmt: skip
        self._tell(
            f"Roster {after.serial} is in use, valid until {after.valid_until:%Y-%m-%d}: {found.sentence()}.", False
        )

    def _say(self, problem: Exception) -> None:
        """Tell the operator, once a day for the same reason."""
        text, today = describe(problem)[:MAX_SHOWN], self._clock.now().date()
        if self._refused[0] != today:
            self._refused = (today, set())
        told = self._refused[1]
        if text in told or len(told) >= REFUSALS_A_DAY:
            return
        told.add(text)
        self._events.emit("roster-refused", error=type(problem).__name__, text=text)
        self._tell(f"REFUSED a roster that the coordinator sent: {text}", True)
