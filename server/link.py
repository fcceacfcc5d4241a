"""The coordinator's end of the link: the nodes of the roster, the runs that are open, and the app that serves them.

Flower's SuperLink serves its unauthenticated control API together with the Fleet API; anyone who reaches it can run code at every
site. Here there are only the routes that a site needs, under mutual TLS and node keys from the roster; no node can register
itself. Both versions of the protocol are served, so that coordinator and sites need not be upgraded on the same day.

    link_auth      a member's signature over a request, and its size, before the body is read
    link_direct    version 2: small plain routes                          link_mail: requests and replies
    link_fleet     version 1: Flower's Fleet routes over Flower's state   link_fleet_run: a run in that state
    link_grid      what the rounds see: Flower's `Grid`
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from starlette.types import Receive, Scope, Send

from salus.common.clock import Clock, SystemClock
from salus.common.progress import Seen
from salus.common.versions import PROTOCOL
from salus.server import link_mail
from salus.server.link_auth import STOPS, Gate, refuse
from salus.server.link_direct import DIRECT, DirectRoutes
from salus.server.link_fleet import FleetRoutes
from salus.server.link_fleet_run import FleetRun
from salus.server.link_grid import LinkGrid
from salus.server.link_mail import Mailbox
from salus.server.link_members import Members
from salus.server.probe import Probes


class Link:
    """The roster's nodes, the open runs, and the app that serves them.

    Args:
        node_keys: PEM public key of each site's node, by site id.
        clock: clock that the time in a request's signature is checked against.
        mismatched, wrong_clock: see `Gate`.
        roster: returns the serial of the coordinator's newest roster, for `salus doctor` at a site.
        folder: where large replies are kept until they are used; None for the system's folder for temporary files.
    """

    def __init__(
        self,
        node_keys: Mapping[int, str],
        clock: Clock | None = None,
        mismatched: Callable[[int], None] = lambda version: None,
        roster: Callable[[], int] = lambda: 0,
        folder: Path | None = None,
        wrong_clock: Callable[[int, str], None] = lambda site, text: None,
    ) -> None:
        factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        )
        self._state = factory.state()
        self._nodes: dict[str, int] = {}
        self._grids: tuple[LinkGrid, ...] = ()
        self._members = Members()
        self._mail = Mailbox(self._members, folder)
        clock = clock or SystemClock()
        gate = Gate(self._members, clock, mismatched, wrong_clock)
        self._sessions = gate.sessions
        self.set_members(node_keys)
        probes = Probes(clock.now, clock.monotonic_s, roster)
        self._direct = DirectRoutes(gate, self._mail)
        self._fleet = FleetRoutes(factory, gate, probes, self._mail, lambda: self._grids)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the ASGI app."""
        if self._mail.closed:
            await refuse(send, STOPS, PROTOCOL)
        elif scope["type"] == "http" and scope["path"].startswith(DIRECT):
            await self._direct(scope, receive, send)
        else:
            await self._fleet.app(scope, receive, send)

    def close(self) -> None:
        """Answer every poll that waits, and every call from now on, with 503: the coordinator stops."""
        self._mail.close()

    def set_members(self, node_keys: Mapping[int, str]) -> None:
        """Make the sites with these node keys the members, from now on.

        A site that is no longer one is cut off at once: its connections are closed, its long poll ends, and a request that it
        has not answered is given up. A site whose key was replaced is another node.
        """
        for key in node_keys.values():
            if key not in self._nodes:
                self._nodes[key] = self._state.create_node(
                    NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key.encode(), HEARTBEAT_DEFAULT_INTERVAL
                )
        for node in self._members.replace(node_keys, self._nodes):
            self._state.deactivate_node(node)
            self._sessions.end(node)
            self._mail.forget_site(node)
            self._mail.ring(node)
        self._wake()

    def directory(self) -> dict[int, int]:
        """Return the node ids of the sites that are online now, by site id."""
        for grid in self._grids:
            grid.fleet.revive()
        found = {}
        for node in self._present():
            member = self._members.at(node)
            if member is not None:
                found[member.site] = node
        return found

    def older(self) -> set[int]:
        """Return the sites that are online and speak version 1, whose daemons know only the requests of that time."""
        nodes = ((node, self._members.at(node)) for node in self._present())
        return {member.site for node, member in nodes if member is not None and self._speaks_fleet(node)}

    def progress(self) -> Mapping[int, Seen]:
        """Return what each site said last about its work, by site id; sites that speak version 1 say nothing."""
        found = {}
        for node, seen in self._mail.progress().items():
            member = self._members.at(node)
            if member is not None:
                found[member.site] = seen
        return found

    def begin_run(self) -> LinkGrid:
        """Start a new run and return the grid that drives it; several may be open, and each must be closed."""
        grid = LinkGrid(self._mail, FleetRun(self._state), self._speaks_fleet, self._present, self._end_run)
        self._grids = (*self._grids, grid)
        return grid

    def _end_run(self, grid: LinkGrid) -> None:
        self._grids = tuple(other for other in self._grids if other is not grid)

    def _wake(self) -> None:
        for grid in self._grids:
            grid.wake()

    def _online_in_fleet(self) -> set[int]:
        # Flower compares times of day: after a clock was set back, a site that is gone would count as online until that time.
        found = {info.node_id for info in self._state.get_node_info(statuses=["online"])}
        return {node for node in found if self._members.silent_s(node) <= link_mail.PRESENT_S}

    def _present(self) -> set[int]:
        nodes = self._online_in_fleet() | self._mail.present()
        return {node for node in nodes if self._members.at(node) is not None}

    def _speaks_fleet(self, node: int) -> bool:
        return node not in self._mail.present() and node in self._online_in_fleet()
