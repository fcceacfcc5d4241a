"""The coordinator's `Grid`: offers requests to sites and takes complete replies, one exchange at a time; several may be open.

Part of the link (`server/link.py`), in a separate file; the same contract test covers both. A site that speaks version 2 of
the protocol finds its request in the mailbox; for one that speaks version 1, it is in Flower's own state, too.
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from salus.common.errors import WireError
from salus.common.packets import Packet, content_of, packet_of, parts_of, release
from salus.server.link_fleet_run import FleetRun
from salus.server.link_mail import Letter, Mailbox

BASE_BUDGET_BYTES = 64 * 2**20  # a site may always send this much in one exchange; larger models raise it
BATCH_BYTES = (
    8 * 2**20
)  # replies are taken out together up to this size, so that large ones are in memory one at a time
LOOK_EVERY_S = 0.5  # whether the sites that have not answered are still there


class RunGrid(Grid):
    """Common part of all grids of Salus: the run that they serve, and how messages are created."""

    _run: Run

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class LinkGrid(RunGrid):
    """Flower's `Grid` over the mailbox of this process; a reply is passed on when all its parts have arrived.

    Args:
        speaks_fleet: whether a node spoke version 1 of the protocol last.
        present: returns the nodes that are online now.
        closed: called with this grid when it is closed.
    """

    def __init__(
        self,
        mail: Mailbox,
        fleet: FleetRun,
        speaks_fleet: Callable[[int], bool],
        present: Callable[[], set[int]],
        closed: Callable[["LinkGrid"], None],
    ) -> None:
        self._mail, self.fleet, self._speaks_fleet, self._present, self._closed = (
            mail,
            fleet,
            speaks_fleet,
            present,
            closed,
        )
        self.reply_budget_bytes = BASE_BUDGET_BYTES
        self._lock = threading.Lock()
        self._letters: dict[str, Letter] = {}
        self._arrived: deque[Letter] = deque()
        self._woken = threading.Event()
        self._looked_s = float("-inf")

    @property
    def run(self) -> Run:
        return self.fleet.run

    def close(self) -> None:
        """End the run: undelivered messages and their objects are dropped."""
        for letter in list(self._letters.values()):
            self._forget(letter)
        self.fleet.close()
        self._closed(self)

    def get_node_ids(self) -> Iterable[int]:
        return self._present()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def wait(self, seconds: float) -> None:
        """Return when a reply may have arrived, or after that time."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End the present `wait`, or the next one."""
        self._woken.set()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Offer requests to their sites.

        Exchanges follow one another: requests of the last one that are still unanswered are dropped here. The run is stamped
        here, too: Flower's own stamp is one for the whole process, in which several runs may be open.
        """
        for stale in list(self._letters.values()):
            self._forget(stale)
        self.fleet.begin_exchange()
        letters = []
        for message in messages:
            header, blob = parts_of(message.content)
            self.reply_budget_bytes = max(self.reply_budget_bytes, BASE_BUDGET_BYTES + 4 * len(blob))
            stamps = {"_run_id": self.run.run_id, "_src_node_id": SUPERLINK_NODE_ID, "_src_task_id": self.fleet.task}
            message.metadata.__dict__.update(stamps)
            letters.append((message, header, blob))
        self.fleet.budget_bytes = self.reply_budget_bytes
        posted = [self._post(*letter) for letter in letters]
        for message, _, _ in letters:  # the letters have header and blob
            release(message.content)
        return posted

    def _post(self, message: Message, header: bytes, blob: bytes) -> str:
        if self._speaks_fleet(message.metadata.dst_node_id):
            self.fleet.store(message)
        else:
            message.metadata.__dict__["_message_id"] = secrets.token_hex(16)  # cannot be guessed by another site
        bare: Message = Message(metadata=message.metadata, content=RecordDict())  # type: ignore[call-overload]
        letter = Letter(bare, header, blob, self.reply_budget_bytes, self._arrive)
        with self._lock:
            self._letters[letter.identifier] = letter
        self._mail.put(letter)
        return letter.identifier

    def _arrive(self, letter: Letter) -> None:
        with self._lock:
            if letter.identifier in self._letters:
                self._arrived.append(letter)
        self._woken.set()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [_reply_to(letter.message, packet) for letter, packet in self._pull(set(message_ids))]

    def pull_packets(self, wanted: set[str]) -> list[tuple[str, Packet]]:
        """Return the same as `pull_messages`, with the name of the request, without making Flower's messages."""
        return [(letter.identifier, packet) for letter, packet in self._pull(wanted)]

    def _pull(self, wanted: set[str]) -> list[tuple[Letter, Packet]]:
        complete = [*self._take_arrived(), *self._lost(wanted)]
        for message in self.fleet.pull({name for name in wanted if name in self._letters}):
            letter = self._letters[message.metadata.reply_to_message_id]
            self._forget(letter)
            complete.append((letter, packet_of(message)))
        return complete

    def _take_arrived(self) -> list[tuple[Letter, Packet]]:
        taken: list[tuple[Letter, Packet]] = []
        size = 0
        while self._arrived and size < BATCH_BYTES:
            letter = self._arrived.popleft()
            reply = letter.reply
            if letter.identifier not in self._letters or reply is None:
                continue
            size += reply.total
            try:
                taken.append((letter, reply.read()))
            except (ValueError, OSError):  # the round continues without this site
                taken.append((letter, WireError("Expected a Salus message.", remedy="Both sides must run Salus.")))
            self._forget(letter)
        if self._arrived:
            self._woken.set()
        return taken

    def _lost(self, wanted: set[str]) -> list[tuple[Letter, Packet]]:
        """Return each request whose site is no longer there."""
        now = time.monotonic()
        if now - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now
        present = self._present()
        lost: list[tuple[Letter, Packet]] = []
        for letter in list(self._letters.values()):
            if letter.identifier in wanted and letter.node not in present and not letter.answered:
                lost.append((letter, None))
                self._forget(letter)
        return lost

    def _forget(self, letter: Letter) -> None:
        """Drop a request with its parts, and whatever has arrived of a reply to it."""
        with self._lock:
            self._letters.pop(letter.identifier, None)
        self._mail.drop(letter)
        self.fleet.forget(letter.identifier)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("Salus takes replies one at a time: use push_messages and pull_messages.")


def _reply_to(message: Message, packet: Packet) -> Message:
    if packet is None:
        return Message(Error(ErrorCode.NODE_UNAVAILABLE), reply_to=message)
    return Message(RecordDict() if isinstance(packet, WireError) else content_of(*packet), reply_to=message)
