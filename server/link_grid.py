"""The coordinator's `Grid`: puts requests into Flower's link state and takes complete replies from it, one exchange at a time.

Part of the link (`server/link.py`), in a separate file; the same contract test covers both.
"""

import asyncio
import threading
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, Status, SubStatus
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from salus.common.errors import WireError
from salus.common.objects import Incomplete, assemble

TASK_HEARTBEAT_S = 10.0
BASE_BUDGET_BYTES = 64 * 2**20  # a site may always send this much in one exchange; larger models raise it


class Bell:
    """Wakes a waiting pull when a message for its node has been stored; callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, int] = {}
        self._events: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}

    def ring(self, node: int) -> None:
        with self._lock:
            self._waiting[node] = self._waiting.get(node, 0) + 1
            waiter = self._events.get(node)
        if waiter is not None:
            waiter[0].call_soon_threadsafe(waiter[1].set)

    async def wait(self, node: int, timeout_s: float) -> None:
        """Return when there is a message for `node`, or after the time-out."""
        event = asyncio.Event()
        with self._lock:
            self._events[node] = (asyncio.get_running_loop(), event)
            if self._waiting.get(node, 0) > 0:
                event.set()
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return
        with self._lock:
            self._waiting[node] = max(0, self._waiting.get(node, 0) - 1)


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
    """Flower's `Grid` over the link state of this process; a reply is passed on when all its parts have arrived."""

    def __init__(self, factory: LinkStateFactory, bell: Bell) -> None:
        self._state = factory.state()
        self._store = self._state.object_store
        self._bell = bell
        self.reply_budget_bytes = BASE_BUDGET_BYTES
        self._spent: dict[int, int] = {}
        self._incomplete: dict[str, Message] = {}
        self._open_run()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _open_run(self) -> None:
        run_id = self._state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self._run = self._state.get_run_info(run_ids=[run_id])[0]
        task = self._run.primary_task_id
        assert task is not None  # Safe because create_run makes the primary task.
        self._task = task
        self._state.claim_task(task)
        self._state.activate_task(task)
        # Flower stamps these onto every message made in this process.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, task

    def revive(self) -> None:
        """Open a new run if Flower has ended this one, as it does when the heartbeat of a suspended machine is late."""
        run_id = self._run.run_id
        if not self._ended.is_set() and self._state.get_run_status({run_id})[run_id].status == Status.FINISHED:
            self._state.cleanup_run(run_id)
            self._incomplete.clear()
            self._open_run()

    def charge(self, node: int, size: int) -> bool:
        """Count the bytes that a node sends in this exchange; return False once it exceeds its budget."""
        self._spent[node] = self._spent.get(node, 0) + size
        return self._spent[node] <= self.reply_budget_bytes

    def offer_again(self, node: int) -> None:
        """Offer a returning site the requests that it has not fully answered; the process that took them may have stopped."""
        answered = self._state.message_ins_id_to_message_res_id  # type: ignore[attr-defined]
        replies = self._state.message_res_store  # type: ignore[attr-defined]
        for identifier, message in list(self._state.message_ins_store.items()):  # type: ignore[attr-defined]
            if message.metadata.dst_node_id != node or not message.metadata.delivered_at:
                continue
            if identifier in answered:
                try:
                    assemble(answered[identifier], self._store.get, self.reply_budget_bytes)
                    continue  # the reply is complete
                except WireError:
                    continue
                except Incomplete:  # the upload was interrupted
                    reply = answered.pop(identifier)
                    replies.pop(reply, None)
                    self._incomplete.pop(identifier, None)
                    self._store.delete(reply)
            self._spent[node] = 0
            message.metadata.delivered_at = ""
            self._bell.ring(node)

    def _beat(self) -> None:
        while not self._ended.wait(TASK_HEARTBEAT_S):
            self._state.acknowledge_task_heartbeat(self._task)

    def close(self) -> None:
        """End the run: undelivered messages and their objects are dropped."""
        self._ended.set()
        self._heart.join()
        self._state.finish_task(self._task, SubStatus.COMPLETED, "")
        self._state.cleanup_run(self._run.run_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._state.get_nodes(self._run.run_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._state.get_node_info(node_ids=list(self.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store objects first and the message last, so that a site never sees a message without its parts.

        Exchanges follow one another: requests of the last one that are still unanswered are dropped here.
        """
        for stale in self._state.get_message_ids_from_run_id(self._run.run_id):
            self._forget(stale)
        self._incomplete.clear()
        self._spent.clear()
        identifiers = []
        with no_object_id_recompute():
            for message in messages:
                identifier = message.object_id
                message.metadata.__dict__["_message_id"] = identifier
                missing = set(self._store.preregister(self._run.run_id, get_object_tree(message)))
                size = 0
                for object_id, part in get_all_nested_objects(message).items():
                    content = part.deflate()
                    size += len(content)
                    if object_id in missing:
                        self._store.put(object_id, content)
                self.reply_budget_bytes = max(self.reply_budget_bytes, BASE_BUDGET_BYTES + 4 * size)
                bare = Message(metadata=message.metadata, content=RecordDict())  # type: ignore[call-overload]
                if self._state.store_message_ins(bare) is not None:
                    identifiers.append(identifier)
                    self._bell.ring(message.metadata.dst_node_id)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        for reply in self._state.get_message_res(wanted - set(self._incomplete), self._run.run_id):
            self._incomplete[reply.metadata.reply_to_message_id] = reply
        complete = []
        for asked in wanted & set(self._incomplete):
            reply = self._incomplete[asked]
            message = reply if reply.has_error() else self._assemble(reply)
            if message is not None:
                del self._incomplete[asked]
                self._forget(asked)
                complete.append(message)
        return complete

    def _forget(self, asked: str) -> None:
        """Drop a request with its parts, and whatever has arrived of a reply to it."""
        reply = self._state.message_ins_id_to_message_res_id.get(asked)  # type: ignore[attr-defined]
        self._state.delete_messages({asked})
        self._store.delete(asked)
        if reply is not None:
            self._store.delete(reply)

    def _assemble(self, reply: Message) -> Message | None:
        """Return the complete reply, with the metadata that were authenticated; None while parts are missing."""
        identifier = reply.metadata.message_id
        try:
            inflated = assemble(identifier, self._store.get, self.reply_budget_bytes)
        except Incomplete:
            return None
        except WireError:
            content = RecordDict()  # not a packet: the round continues without this site
        else:
            content = inflated.content if inflated.has_content() else RecordDict()
        self._store.delete(identifier)
        whole: Message = Message(metadata=reply.metadata, content=content)  # type: ignore[call-overload]
        return whole

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("Salus takes replies one at a time: use push_messages and pull_messages.")
