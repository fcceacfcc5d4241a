"""Access to the sites by id, over any Flower `Grid` (our own link, the simulation, or Flower's engines).

A deadline follows progress: a site has `timeout_s` from its last sign of progress on the request, not from the request. So the
largest hospital is not dropped for being slow, and one that is silent, or reports the same again and again, is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from salus.common.clock import Clock, SystemClock
from salus.common.errors import SalusError, WireError
from salus.common.packets import MESSAGE_TYPES, Packet, Reply, Request, pack, packet_of, reply_of, unpack_reply
from salus.common.progress import Gains, Seen, nobody

POLL_S, LONGEST_POLL_S = 0.02, 0.2  # Flower's grids cannot wait, so they are polled; the link's can, see `_pause`
POLL_SHARE = 0.05  # of the time since the last reply: so a round is at most this much longer for it
CONTINUES = "The round continues without it."
TTL_S = 30 * 86_400.0  # an exchange ends by its own clock; Flower compares times of day, which may be set meanwhile
HELLO_TIMEOUT_S = 300.0  # ends as soon as every node has answered; its process may still be starting


class Federation(Protocol):
    """The sites that can be asked."""

    def online(self) -> tuple[int, ...]:
        """Return the ids of the sites that can be reached now, ascending."""

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        """Ask these sites and yield each answer as it arrives; a site that does not answer in time yields a WireError.

        Args:
            timeout_s: for each site, since it was asked or since its last progress.

        When the job is cancelled in the meantime, nothing more is yielded.
        """


class Deadlines:
    """When each site's time is up.

    What counts as progress: `Gains`. Work on another request gains no time; `late` waits for it before an exchange.

    Args:
        waiting: site by message.
    """

    def __init__(self, waiting: Mapping[str, int], timeout_s: float, now_s: float) -> None:
        self._timeout_s = timeout_s
        self._until_s = dict.fromkeys(waiting.values(), now_s + timeout_s)
        self._message_of = {site: message for message, site in waiting.items()}
        self._gains = {site: Gains() for site in self._message_of}

    def follow(self, reports: Mapping[int, Seen], now_s: float) -> None:
        """Move the deadline of every site that got on since the last call."""
        for site, seen in reports.items():
            if self._message_of.get(site) == seen.progress.request and self._gains[site].new(seen.progress):
                self._until_s[site] = now_s + self._timeout_s

    def over(self, site: int, now_s: float) -> bool:
        """Whether a site's time is up."""
        return now_s >= self._until_s[site]


class GridFederation:
    """Sites behind a Flower grid.

    Args:
        directory: returns the current node of each site, by site id.
        cancelled: called while waiting, so that a cancelled job ends promptly.
        progress: returns what each site last reported, by site id.
    """

    def __init__(
        self,
        grid: Grid,
        directory: Callable[[], Mapping[int, int]],
        cancelled: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
        progress: Callable[[], Mapping[int, Seen]] = nobody,
    ) -> None:
        self._progress = progress
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
            messages.append(Message(packed[key], node, MESSAGE_TYPES[header.kind], ttl=TTL_S))
        del packed
        waiting = set(self._grid.push_messages(messages))
        site_of = {message.metadata.message_id: site for message, site in zip(messages, asked, strict=True)}
        del messages
        for site in sorted(set(requests) - set(asked)):
            yield site, WireError(f"Site {site} is not connected.", remedy=CONTINUES), b""
        heard = self._clock.monotonic_s()
        withdraw = False
        deadlines = Deadlines({name: site for name, site in site_of.items() if name in waiting}, timeout_s, heard)
        while waiting and not self._cancelled():
            arrived = self._pull(waiting)
            now_s = self._clock.monotonic_s()
            heard = now_s if arrived else heard
            while arrived:
                asked_by, packet = arrived.pop()
                waiting.discard(asked_by)
                if asked_by in site_of:
                    yield (site_of[asked_by], *_read(packet, site_of[asked_by]))
                del packet
            deadlines.follow(self._progress(), now_s)
            for late in [name for name in waiting if deadlines.over(site_of[name], now_s)]:
                waiting.discard(late)
                withdraw = True
                yield site_of[late], _silent(site_of[late], timeout_s), b""
            if waiting:
                self._pause(min(max(POLL_S, POLL_SHARE * (now_s - heard)), LONGEST_POLL_S))
        # Whoever has not answered when a job is cancelled was not given the time to. Nobody works on what is left.
        if withdraw or waiting:
            self._grid.push_messages([])

    def _pull(self, waiting: set[str]) -> list[tuple[str, Packet]]:
        """Return the replies that have arrived, by the request's message; the link's need not become Flower's messages."""
        pull: Callable[[set[str]], list[tuple[str, Packet]]] | None = getattr(self._grid, "pull_packets", None)
        if pull is not None:
            return pull(waiting)
        # Flower's own error replies carry no site's node.
        return [(m.metadata.reply_to_message_id, packet_of(m)) for m in self._grid.pull_messages(waiting)]

    def _pause(self, seconds: float) -> None:
        """Wait until a reply has arrived, at most until it is time to look whether the job was cancelled."""
        wait: Callable[[float], None] | None = getattr(self._grid, "wait", None)
        if wait is None:
            self._clock.sleep(seconds)
        else:
            wait(LONGEST_POLL_S)


def _silent(site: int, timeout_s: float) -> WireError:
    return WireError(
        f"Site {site} did not answer in time: there was no answer and no progress for {timeout_s:.0f} s.",
        remedy=CONTINUES,
    )


def _read(packet: Packet, site: int) -> tuple[Reply | SalusError, bytes]:
    if packet is None:
        return WireError(f"Site {site} did not answer.", remedy=CONTINUES), b""
    if isinstance(packet, SalusError):
        return packet, b""
    header, blob = packet
    try:
        reply = reply_of(header)
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
