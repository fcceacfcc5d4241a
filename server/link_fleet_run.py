"""One run in Flower's own link state, through which sites that speak version 1 of the protocol get their requests.

Part of the link (`server/link.py`). The parts of a request are in Flower's object store, named by their hashes.
"""

import threading

from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, Status, SubStatus
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.task_identity import TaskIdentity

from salus.common.errors import WireError
from salus.common.objects import Incomplete, assemble

TASK_HEARTBEAT_S = 10.0


class FleetRun:
    """A run, its requests and the replies to them, in Flower's state."""

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self._store = state.object_store
        self.budget_bytes = 0
        self._spent: dict[int, int] = {}
        self._stored: set[str] = set()
        self._incomplete: dict[str, Message] = {}
        self._open()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _open(self) -> None:
        run_id = self._state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self.run = self._state.get_run_info(run_ids=[run_id])[0]
        task = self.run.primary_task_id
        assert task is not None  # Safe because create_run makes the primary task.
        self.task = task
        self._state.claim_task(task)
        self._state.activate_task(task)
        # Flower stamps these onto every message made in this process; `LinkGrid` replaces them by its own run's.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, task

    def revive(self) -> None:
        """Open a new run if Flower has ended this one, as it does when the heartbeat of a suspended machine is late."""
        run_id = self.run.run_id
        if not self._ended.is_set() and self._state.get_run_status({run_id})[run_id].status == Status.FINISHED:
            self._state.cleanup_run(run_id)
            self._incomplete.clear()
            self._open()

    def _beat(self) -> None:
        while not self._ended.wait(TASK_HEARTBEAT_S):
            self._state.acknowledge_task_heartbeat(self.task)

    def close(self) -> None:
        """End the run."""
        self._ended.set()
        self._heart.join()
        self._state.finish_task(self.task, SubStatus.COMPLETED, "")
        self._state.cleanup_run(self.run.run_id)

    def begin_exchange(self) -> None:
        """Give every site its whole budget again."""
        self._spent.clear()
        self._incomplete.clear()

    def charge(self, node: int, size: int) -> bool:
        """Count the bytes that a node sends in this exchange; return False once it exceeds its budget."""
        self._spent[node] = self._spent.get(node, 0) + size
        return self._spent[node] <= self.budget_bytes

    def store(self, message: Message) -> None:
        """Name a request by its hash and store it: objects first, so that a site never sees a message without its parts."""
        with no_object_id_recompute():
            identifier = message.object_id
            message.metadata.__dict__["_message_id"] = identifier
            missing = set(self._store.preregister(self.run.run_id, get_object_tree(message)))
            for object_id, part in get_all_nested_objects(message).items():
                if object_id in missing:
                    self._store.put(object_id, part.deflate())
        bare: Message = Message(metadata=message.metadata, content=RecordDict())  # type: ignore[call-overload]
        self._stored.add(identifier)
        self._state.store_message_ins(bare)

    def pull(self, wanted: set[str]) -> list[Message]:
        """Return the replies that are complete."""
        wanted &= self._stored
        if not wanted:
            return []
        for reply in self._state.get_message_res(wanted - set(self._incomplete), self.run.run_id):
            self._incomplete[reply.metadata.reply_to_message_id] = reply
        complete = []
        for asked in wanted & set(self._incomplete):
            reply = self._incomplete[asked]
            message = reply if reply.has_error() else self._assemble(reply)
            if message is not None:
                complete.append(message)
        return complete

    def forget(self, asked: str) -> None:
        """Drop a request with its parts, and whatever has arrived of a reply to it."""
        if asked not in self._stored:
            return
        self._stored.discard(asked)
        self._incomplete.pop(asked, None)
        reply = self._state.message_ins_id_to_message_res_id.get(asked)  # type: ignore[attr-defined]
        self._state.delete_messages({asked})
        self._store.delete(asked)
        if reply is not None:
            self._store.delete(reply)

    def offer_again(self, node: int) -> None:
        """Offer a returning site the requests that it has not fully answered; the process that took them may have stopped."""
        answered = self._state.message_ins_id_to_message_res_id  # type: ignore[attr-defined]
        replies = self._state.message_res_store  # type: ignore[attr-defined]
        for identifier, message in list(self._state.message_ins_store.items()):  # type: ignore[attr-defined]
            mine = identifier in self._stored and message.metadata.dst_node_id == node
            if not mine or not message.metadata.delivered_at:
                continue
            if identifier in answered:
                try:
                    assemble(answered[identifier], self._store.get, self.budget_bytes)
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

    def _assemble(self, reply: Message) -> Message | None:
        """Return the complete reply, with the metadata that were authenticated; None while parts are missing."""
        identifier = reply.metadata.message_id
        try:
            inflated = assemble(identifier, self._store.get, self.budget_bytes)
        except Incomplete:
            return None
        except WireError:
            content = RecordDict()  # not a packet: the round continues without this site
        else:
            content = inflated.content if inflated.has_content() else RecordDict()
        self._store.delete(identifier)
        whole: Message = Message(metadata=reply.metadata, content=content)  # type: ignore[call-overload]
        return whole
