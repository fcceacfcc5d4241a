"""Access to the sites by id, over any Flower `Grid` (our own link, the simulation, or Flower's engines)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from salus.common.clock import Clock, SystemClock
from salus.common.errors import SalusError, WireError
from salus.common.packets import MESSAGE_TYPES, Reply, Request, pack, unpack_reply

POLL_S, LONGEST_POLL_S = 0.02, 0.2  # Flower's grids cannot wait, so they are polled; the link's can, see `_pause`
POLL_SHARE = 0.05  # of the time since the last reply: so a round is at most this much longer for it
HELLO_TIMEOUT_S = 300.0  # ends as soon as every node has answered; its process may still be starting


class Federation(Protocol):
    """The sites that can be asked."""

    def online(self) -> tuple[int, ...]:
        """Return the ids of the sites that can be reached now, ascending."""

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        """Ask these sites and yield each answer as it arrives; a site that does not answer in time yields a WireError.

        When the job is cancelled in the meantime, nothing more is yielded.
        """


class GridFederation:
    """Sites behind a Flower grid.

    Args:
        directory: returns the current node of each site, by site id.
        cancelled: called while waiting, so that a cancelled job ends promptly.
    """

    def __init__(
        self,
        grid: Grid,
        directory: Callable[[], Mapping[int, int]],
        cancelled: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._grid = grid
        self._directory = directory
        self._cancelled = cancelled

    def online(self) -> tuple[int, ...]:
        return tuple(sorted(self._directory()))

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        nodes = self._directory()
        asked = {site: nodes[site] for site in requests if site in nodes}
        packed: dict[tuple[int, int], RecordDict] = {}  # a model that every site receives is packed and hashed once
        messages = []
        for site, node in asked.items():
            header, blob = requests[site]
            key = (id(header), id(blob))
            if key not in packed:
                packed[key] = pack(header, blob)
            messages.append(Message(packed[key], node, MESSAGE_TYPES[header.kind], ttl=timeout_s + 60.0))
        del packed
        waiting = set(self._grid.push_messages(messages))
        site_of = {message.metadata.message_id: site for message, site in zip(messages, asked, strict=True)}
        del messages
        heard = self._clock.monotonic_s()
        deadline = heard + timeout_s
        while waiting and self._clock.monotonic_s() < deadline and not self._cancelled():
            arrived = list(self._grid.pull_messages(waiting))
            heard = self._clock.monotonic_s() if arrived else heard
            while arrived:
                message = arrived.pop()
                asked_by = message.metadata.reply_to_message_id  # Flower's own error replies carry no site's node
                waiting.discard(asked_by)
                if asked_by in site_of:
                    yield (site_of[asked_by], *_read(message, site_of[asked_by]))
            if waiting:
                silent_s = self._clock.monotonic_s() - heard
                self._pause(min(max(POLL_S, POLL_SHARE * silent_s), LONGEST_POLL_S))
        if self._cancelled():
            return  # whoever had not answered yet was not given the time to
        for identifier in waiting:
            site = site_of[identifier]
            yield site, WireError(f"Site {site} did not answer in time.", remedy="The round continues without it."), b""

    def _pause(self, seconds: float) -> None:
        """Wait until a reply has arrived, at most until it is time to look whether the job was cancelled."""
        wait: Callable[[float], None] | None = getattr(self._grid, "wait", None)
        if wait is None:
            self._clock.sleep(seconds)
        else:
            wait(LONGEST_POLL_S)


def _read(message: Message, site: int) -> tuple[Reply | SalusError, bytes]:
    if message.has_error():
        return WireError(f"Site {site} did not answer.", remedy="The round continues without it."), b""
    try:
        reply, blob = unpack_reply(message.content)
    except SalusError as problem:
        return problem, b""
    if reply.site != site:
        return WireError(f"Site {site} answered as site {reply.site}.", remedy="Check that site's kit and keys."), b""
    return reply, blob


def introduce(grid: Grid) -> dict[int, int]:
    """Ask every node for its site id; for engines without node keys, such as Flower's simulation.

    Returns node ids by site id. The answer is not verified: over the network, the roster's node keys decide instead.
    """
    messages = [
        Message(pack(Request(kind="hello")), node, MESSAGE_TYPES["hello"], ttl=HELLO_TIMEOUT_S)
        for node in grid.get_node_ids()
    ]
    nodes = {}
    for message in grid.send_and_receive(messages, timeout=HELLO_TIMEOUT_S):
        if message.has_error():
            continue
        try:
            reply, _ = unpack_reply(message.content)
        except SalusError:
            continue
        nodes[reply.site] = message.metadata.src_node_id
    return nodes
