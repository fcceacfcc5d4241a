"""The coordinator's end of the link: Flower's Fleet routes and nothing else, over Flower's own state, in our process.

Flower's SuperLink serves its unauthenticated control API beside the Fleet API; whoever reaches it can run code at every
site. Here only the Fleet router is mounted, under mutual TLS and node keys from the roster; no node can register itself.
The classes of Flower used here are not public API: the version is pinned and `tests/server/test_link.py` holds the contract.

    middlewares, outermost first     what each does
    error translator (Flower)        errors to JSON without internals
    size limit                       refuses a body larger than any chunk can be, before reading it
    protobuf translation (Flower)
    node authentication (Flower)     signature over the time, and the claimed node id must be the key's
    own rules                        a reply may only speak for its own node; a restarted site is taken back at once
    long poll                        a pull waits for a message instead of returning empty
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from flwr.app import Message, RecordDict
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SubStatus,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.serverapp import Grid
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

LONG_POLL_S = 20.0  # below the client's 30 s read time-out and below what proxies usually cut
MAX_BODY_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB
TASK_HEARTBEAT_S = 10.0
FLEET = "/v1/fleet/"


class Link:
    """Flower's link state with the roster's nodes, and the app that serves them.

    Args:
        node_keys: PEM public key of each site's node, by site id.
    """

    def __init__(self, node_keys: Mapping[int, str]) -> None:
        self._factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        )
        self._state = self._factory.state()
        self._site_of = {
            self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key.encode(), HEARTBEAT_DEFAULT_INTERVAL): site
            for site, key in node_keys.items()
        }
        self._bell = _Bell()
        self.app = self._make_app()

    def directory(self) -> dict[int, int]:
        """Return the node ids of the sites that are online now, by site id."""
        online = self._state.get_node_info(statuses=["online"])
        return {self._site_of[node.node_id]: node.node_id for node in online if node.node_id in self._site_of}

    def begin_run(self) -> "LinkGrid":
        """Start a new run and return the grid that drives it; only one may be open at a time."""
        return LinkGrid(self._factory, self._bell)

    def _make_app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.state.linkstate_factory = self._factory
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        # Added innermost first.
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._long_poll)
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._own_rules)
        app.add_middleware(NodeAuthMiddleware)
        app.add_middleware(ProtobufTranslationMiddleware)
        app.add_middleware(BaseHTTPMiddleware, dispatch=_limit_size)
        app.add_middleware(BaseHTTPMiddleware, dispatch=http_error_translator)
        return app

    async def _own_rules(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        body = getattr(request.state, "protobuf_request", None)
        if isinstance(body, PushMessagesRequest):
            replies = list(body.messages_list)
            if len(replies) != 1 or replies[0].metadata.src_node_id != body.node.node_id:
                return JSONResponse({"detail": "A reply must come from its own node"}, status_code=403)
        if isinstance(body, ConfirmMessageReceivedRequest):
            # Flower would drop the message's parts now; they are kept until the reply, in case the site dies before it.
            request.state.protobuf_response = ConfirmMessageReceivedResponse()
            return Response()
        if isinstance(body, ActivateNodeRequest):
            node = self._state.get_node_id_by_public_key(body.public_key)
            if node is not None:
                # Its old life may still count as online; the signature proves that this is the same site.
                self._state.deactivate_node(node)
                self._redeliver(node)
        return await call_next(request)

    def _redeliver(self, node: int) -> None:
        """Offer a returning site what it was sent but has not answered: the process that took it may be gone."""
        answered = self._state.message_ins_id_to_message_res_id  # type: ignore[attr-defined]
        for identifier, message in list(self._state.message_ins_store.items()):  # type: ignore[attr-defined]
            if message.metadata.dst_node_id == node and identifier not in answered and message.metadata.delivered_at:
                message.metadata.delivered_at = ""
                self._bell.ring(node)

    async def _long_poll(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        body = getattr(request.state, "protobuf_request", None)
        if isinstance(body, PullMessagesRequest):
            await self._bell.wait(body.node.node_id, LONG_POLL_S)
            if await request.is_disconnected():
                self._bell.ring(body.node.node_id)  # leave the message for the site's next connection
                return Response(status_code=499)
        return await call_next(request)


async def _limit_size(request: Request, call_next: RequestResponseEndpoint) -> Response:
    length = request.headers.get("content-length", "")
    if not request.url.path.startswith(FLEET):
        return JSONResponse({"detail": "Not found"}, status_code=404)
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        return JSONResponse({"detail": "The body has no length or is too large"}, status_code=413)
    return await call_next(request)


class _Bell:
    """Wakes a waiting pull when a message for its node was stored; rung from any thread."""

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
        """Return as soon as there is a message for `node`, or after the time-out."""
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


class LinkGrid(Grid):
    """Flower's `Grid` over the link state of this very process; replies are handed on once all their parts are here."""

    def __init__(self, factory: LinkStateFactory, bell: _Bell) -> None:
        self._state = factory.state()
        self._store = self._state.object_store
        self._bell = bell
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
        self._incomplete: dict[str, Message] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(TASK_HEARTBEAT_S):
            self._state.acknowledge_task_heartbeat(self._task)

    def close(self) -> None:
        """End the run: undelivered messages and their objects are dropped."""
        self._ended.set()
        self._heart.join()
        self._state.finish_task(self._task, SubStatus.COMPLETED, "")
        self._state.cleanup_run(self._run.run_id)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._state.get_nodes(self._run.run_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._state.get_node_info(node_ids=list(self.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store objects first and the message last, so that a site never sees a message without its parts.

        Exchanges follow each other: what is still unanswered from the last one is dropped here.
        """
        for stale in self._state.get_message_ids_from_run_id(self._run.run_id):
            self._forget(stale)
        self._incomplete.clear()
        identifiers = []
        with no_object_id_recompute():
            for message in messages:
                identifier = message.object_id
                message.metadata.__dict__["_message_id"] = identifier
                missing = set(self._store.preregister(self._run.run_id, get_object_tree(message)))
                for object_id, part in get_all_nested_objects(message).items():
                    if object_id in missing:
                        self._store.put(object_id, part.deflate())
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
        """Drop a request with its parts, and what has come of a reply to it."""
        reply = self._state.message_ins_id_to_message_res_id.get(asked)  # type: ignore[attr-defined]
        self._state.delete_messages({asked})
        self._store.delete(asked)
        if reply is not None:
            self._store.delete(reply)

    def _assemble(self, reply: Message) -> Message | None:
        """Return the whole reply, or None while parts are missing. Its metadata are those that were authenticated."""
        identifier = reply.metadata.message_id
        try:
            tree = self._store.get_object_tree(identifier)
        except NoObjectInStoreError:
            return None
        parts: dict[str, bytes] = {}
        for node in iterate_object_tree(tree):
            part = self._store.get(node.object_id)
            if not part:
                return None
            parts[node.object_id] = part
        self._store.delete(identifier)
        inflated = inflate_object_from_contents(identifier, parts)
        content = inflated.content if isinstance(inflated, Message) and inflated.has_content() else RecordDict()
        whole: Message = Message(metadata=reply.metadata, content=content)  # type: ignore[call-overload]
        return whole

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("Salus takes replies one by one; use push_messages and pull_messages.")
