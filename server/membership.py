"""The members of a running coordinator: it takes a new roster without a restart, and passes it on to the sites.

    take      another kit is installed ──> its roster, node keys and certificate are used at once; who has left is cut off
    deliver   site online ──which roster?──> has the newest
                              └ lacks it ──its kit──> has it | refuses it, which both operators are told

The coordinator only passes on what the consortium has signed, and each site checks it against the key that it has pinned.
A site's answer decides nothing but what is sent to this site and shown to people.
"""

import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from salus.common.clock import Clock
from salus.common.errors import SalusError, describe
from salus.common.events import EventSink
from salus.common.packets import Reply, Request
from salus.common.roster import changes
from salus.common.trust import Trust
from salus.server.config import ServerFolder
from salus.server.federation import GridFederation
from salus.server.fetched import Fetched, read_fetched, write_fetched
from salus.server.link import Link

TICK_S = 0.25
WAIT_S = 60.0  # for a site that is busy; it is asked again afterwards
RETRY_S = 600.0  # until a site that could not install its roster is asked again; its disk may have been full
GATHER_S = 0.5  # for the answers of the other sites, before something is sent to one
BY_HAND = "Its version of Salus does not fetch rosters: give the site its kit by hand."
ANSWER = re.compile(rb"([0-9]{1,9}) ([0-9a-f]{64})")


@dataclass(frozen=True)
class _Known:
    """What a site has answered about the newest roster.

    Args:
        lacks: whether it is sent next.
        until: when the site is asked again, in seconds of the monotonic clock.
    """

    lacks: bool
    until: float = 0.0


class Membership:
    """Keeps the coordinator's members and the sites' rosters up to date.

    Args:
        port: called with the TLS context of a new kit.
    """

    def __init__(
        self, folder: ServerFolder, link: Link, events: EventSink, clock: Clock,
        port: Callable[[ssl.SSLContext], None] = lambda tls: None,
    ) -> None:  # fmt: skip
        self._folder, self._link, self._events, self._clock = folder, link, events, clock
        self.port = port
        self._lock = threading.RLock()
        self._known: dict[int, _Known] = {}
        self._again = False
        self._failed: tuple[int, int, int] | None = None
        self._told, self._changed = "", "nothing has changed"
        try:
            self._fetched = read_fetched(folder.folder)
        except SalusError:
            self._fetched = {}

    def take(self) -> dict[str, Any]:
        """Use the kit that is installed now, and return its roster's serial, its number of sites and what it has changed.

        Who is no longer a member is cut off before this returns. Without a new kit nothing changes.

        Raises:
            ConfigError, IdentityError, RosterError: the kit cannot be used; the coordinator keeps the one before.
        """
        with self._lock:
            trust = self._folder.trust
            changed = self._folder.renew()
            before, after = trust.newest, self._folder.roster
            found = changes(before, after)
            if changed:
                try:
                    tls = self._folder.tls()
                except SalusError:
                    self._folder.trust = trust
                    raise
                self._known, self._changed = {}, found.sentence()
                self._link.set_members(self._folder.node_keys())
                self.port(tls)
                self._fetched = {site: one for site, one in self._fetched.items() if site in after.site_ids()}
        if changed:
            self._events.emit(
                "roster-installed", serial=after.serial, sites=len(after.sites),
                joined=found.joined, left=found.left, rekeyed=found.rekeyed,
            )  # fmt: skip
        return {"serial": after.serial, "sites": len(after.sites), "changed": self._changed}

    def run(self, stop: threading.Event) -> None:
        """Take each new kit and deliver it, until `stop` is set."""
        while not stop.wait(TICK_S):
            try:
                self._look()
                self._deliver(stop)
            except Exception as problem:  # neither a bad kit nor a bad site stops the coordinator
                text = describe(problem)
                if text != self._told:
                    self._told = text
                    self._events.emit("roster-not-taken", text=text)

    def _look(self) -> None:
        """Take a kit that was installed without a word to the daemon; one that cannot be used is tried once."""
        trust = self._folder.trust
        if trust.replaced and trust.current().stamp != self._failed:
            try:
                self.take()
                self._failed = None
            except SalusError:
                self._failed = trust.current().stamp
                raise

    def waiting(self, digest: str) -> Mapping[int, str]:
        """Return the online sites that are known to lack the roster with this hash, or have not said, with the reason."""
        with self._lock:
            trust, online = self._folder.trust, self._link.directory()
            if digest != trust.digest:
                return {}
            return {site: f"has not fetched roster {trust.newest.serial} yet" for site in online if self._is_due(site)}

    def rosters(self) -> dict[int, Fetched]:
        """Return which roster each site has, as far as it has said, by site id."""
        with self._lock:
            return dict(self._fetched)

    def _is_due(self, site: int) -> bool:
        known = self._known.get(site)
        return known is None or self._clock.monotonic_s() >= known.until

    def _due(self) -> set[int]:
        online = set(self._link.directory())
        older = self._link.older()
        with self._lock:
            self._known = {site: known for site, known in self._known.items() if site in online}
            for site in older:
                if self._is_due(site):
                    self._settle(site, self._serial(site), BY_HAND)
            return {site for site in online if self._is_due(site)}

    def _deliver(self, stop: threading.Event) -> None:
        """Ask the sites that have not said which roster they have, and send it to those that lack it.

        A busy site answers late. The exchange ends early when there is something to send to another one, and begins again.
        """
        asked, self._again = self._due(), False
        if not asked:
            return
        trust, since = self._folder.trust, 0.0

        def news() -> bool:
            nonlocal since
            if stop.is_set() or self._folder.trust is not trust:
                return True
            if not self._again and self._due() <= asked:
                return False
            since = since or self._clock.monotonic_s()
            return self._clock.monotonic_s() - since >= GATHER_S

        grid = self._link.begin_run()
        try:
            federation = GridFederation(grid, self._link.directory, news)
            requests = {site: self._request(site, trust) for site in asked}
            for site, reply, blob in federation.exchange(requests, WAIT_S):
                with self._lock:
                    if self._folder.trust is trust and site in trust.newest.site_ids():
                        self._heard(site, reply, blob, sent=bool(requests[site][1]), trust=trust)
        finally:
            grid.close()

    def _request(self, site: int, trust: Trust) -> tuple[Request, bytes]:
        request = Request(kind="roster", roster=trust.digest)
        known = self._known.get(site)
        if known is None or not known.lacks:
            return request, b""
        kit = trust.kit.for_site(site, trust.newest.site(site).name)
        return request, b"" if kit is None else kit.to_bytes()

    def _heard(self, site: int, reply: Reply | SalusError, blob: bytes, *, sent: bool, trust: Trust) -> None:
        """Note a site's answer; without one it is asked again."""
        if isinstance(reply, SalusError):
            return
        found = ANSWER.fullmatch(blob[:80]) if reply.kind == "ok" else None
        if found is None:
            text = reply.text if reply.kind == "refused" else "It did not say which roster it has."
            self._settle(site, self._serial(site), text)
            return
        serial, digest = int(found[1]), found[2].decode()
        if digest == trust.digest:
            self._settle(site, trust.newest.serial, "")
        elif sent:
            self._settle(site, serial, "It did not install the roster that it was sent.")
        elif serial > trust.newest.serial:
            self._settle(site, serial, "Its roster is newer than the coordinator's: install the newest kit here.")
        elif trust.kit.for_site(site, "site") is None:
            self._settle(
                site, serial, "The coordinator's kit has no certificate for it: give the site its kit by hand."
            )
        else:
            self._known[site] = _Known(lacks=True)
            self._again = True

    def _serial(self, site: int) -> int:
        known = self._fetched.get(site)
        return known.serial if known else 0

    def _settle(self, site: int, serial: int, problem: str) -> None:
        """Remember what a site has; tell the operator if it is news."""
        again = self._clock.monotonic_s() + RETRY_S if problem else float("inf")
        self._known[site] = _Known(lacks=False, until=again)
        before = self._fetched.get(site)
        if before is not None and (before.serial, before.problem) == (serial, problem[:500]):
            return
        self._fetched[site] = Fetched(site=site, serial=serial, at=self._clock.now(), problem=problem[:500])
        if problem:
            self._events.emit("roster-refused", site=site, serial=serial, text=problem[:500])
        else:
            self._events.emit("roster-fetched", site=site, serial=serial)
        write_fetched(self._folder.folder, self._fetched)
