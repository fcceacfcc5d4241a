"""The site's end of the link: outbound only, over mutual TLS, with the site's node key.

A site speaks version 2 of the protocol (`link_direct.py`); with a coordinator that is not upgraded yet, it speaks version 1
(`link_fleet.py`), and looks for the newer one each time it connects. Flower is imported only where a message of Flower is
wanted, so a process that passes requests on as bytes stays small.
"""

import ssl
from types import TracebackType
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from salus.client.link_direct import Delivery, DirectCalls, OlderCoordinator
from salus.common.clock import Clock, SystemClock
from salus.common.errors import LinkError
from salus.common.progress import Progress

if TYPE_CHECKING:
    from flwr.app import Message

    from salus.client.link_fleet import FleetCalls

MAX_MESSAGE_BYTES = 8 * 2**30
IDLE = Progress()


class FleetLink:
    """A connection that can be re-established; every method raises LinkError if the coordinator cannot be reached.

    Args:
        url: ``https://host:port`` of the coordinator.
        tls: context with the consortium's CA and this site's certificate.
        node_key: the private key whose public half is on the roster.
        clock: whose time is signed with each request.
        max_message_bytes: largest request that is accepted from the coordinator; never more than `MAX_MESSAGE_BYTES`.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        node_key: ec.EllipticCurvePrivateKey,
        clock: Clock | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._how = (url, tls, node_key, clock or SystemClock(), min(max_message_bytes, MAX_MESSAGE_BYTES))
        self._direct = DirectCalls(*self._how)
        self._fleet: FleetCalls | None = None
        self._connected = False

    def __enter__(self) -> "FleetLink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def protocol(self) -> int:
        """The version of the protocol that this connection speaks."""
        return 2 if self._fleet is None else 1

    def renew(self, url: str, tls: ssl.SSLContext) -> None:
        """Use another context for all connections from now on; to be called between two requests.

        The site stays connected, unless the URL is another one or the coordinator speaks version 1: then the next call raises
        LinkError, and the site connects again.
        """
        moved = url != self._how[0]
        self._how = url, tls, *self._how[2:]
        self._direct.renew(url, tls)
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
            moved = True
        self._connected = self._connected and not moved

    def activate(self) -> int:
        """Register this site, and return the node id that the coordinator assigned.

        A request that was taken and not answered is offered again afterwards.
        """
        self._direct.forget()
        try:
            node = self._direct.hello()
            if self._fleet is not None:
                self._fleet.close()
                self._fleet = None
        except OlderCoordinator:
            if self._fleet is None:
                from salus.client.link_fleet import FleetCalls

                self._fleet = FleetCalls(*self._how)
            node = self._fleet.activate()
        self._connected = True
        return node

    def heartbeat(self, progress: Progress = IDLE) -> None:
        """Tell the coordinator that this site is there and what it does; while a poll waits, that says it already."""
        self._check_connected()
        if self._fleet is not None:
            self._fleet.heartbeat()
        elif not self._direct.waiting:
            self._direct.heartbeat(progress)

    def take(self, progress: Progress = IDLE) -> Delivery | None:
        """Wait for one request, up to the coordinator's long-poll time; None if there was none."""
        self._check_connected()
        return self._direct.poll(progress) if self._fleet is None else self._fleet.take()

    def answer(self, delivery: Delivery, header: bytes, blob: bytes) -> bool:
        """Send the reply to a request; return False if the coordinator no longer wants it.

        Can be repeated after an error: what has arrived is not lost, and a reply counts once.
        """
        self._check_connected()
        if self._fleet is None:
            return self._direct.reply(delivery.meta.message, header, blob)
        self._fleet.answer(delivery, header, blob)
        return True

    def receive(self) -> "Message | None":
        """Wait for one request, as a message of Flower; see `take`."""
        delivery = self.take()
        if delivery is None:
            return None
        from salus.client.link_message import message_of

        return message_of(delivery)

    def send(self, reply: "Message") -> bool:
        """Send a reply, as a message of Flower; see `answer`."""
        from salus.client.link_message import answer_of

        return self.answer(*answer_of(reply))

    def close(self) -> None:
        """Sign off from the coordinator, if it can be reached, and close the connection."""
        try:
            if self._connected:
                (self._direct if self._fleet is None else self._fleet).bye()
        except LinkError:
            pass  # the coordinator notices that it hears nothing more
        self._direct.close()
        if self._fleet is not None:
            self._fleet.close()

    def _check_connected(self) -> None:
        if not self._connected:
            raise LinkError("The site is not connected yet.", remedy="Call activate first.")
