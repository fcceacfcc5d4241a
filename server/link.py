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
    HEARTBEAT_MAX_INTERVAL,
    HEARTBEAT_MIN_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    Status,
    SubStatus,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse, PushObjectRequest
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
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from salus.common.errors import WireError
from salus.common.objects import MAX_OBJECTS, Incomplete, assemble

LONG_POLL_S = 20.0  # below the client's 30 s read time-out and below what proxies usually cut
MAX_BODY_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB
TASK_HEARTBEAT_S = 10.0
FLEET = "/v1/fleet/"
BASE_BUDGET_BYTES = 64 * 2**20  # what a site may always send in one exchange; larger models raise it


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
        self._grid: LinkGrid | None = None
        self.app = self._make_app()

    def directory(self) -> dict[int, int]:
        """Return the node ids of the sites that are online now, by site id."""
        if self._grid is not None:
            self._grid.revive()
        online = self._state.get_node_info(statuses=["online"])
        return {self._site_of[node.node_id]: node.node_id for node in online if node.node_id in self._site_of}

    def begin_run(self) -> "LinkGrid":
        """Start a new run and return the grid that drives it; only one may be open at a time."""
        self._grid = LinkGrid(self._factory, self._bell)
        return self._grid

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
        if isinstance(body, PushMessagesRequest) and not self._acceptable(body):
            return JSONResponse(
                {"detail": "One reply, of this node, with a tree of its own, to a request still open"}, 403
            )
        if isinstance(body, PushObjectRequest) and not self._within_budget(body):
            return JSONResponse({"detail": "More bytes than a reply can have"}, status_code=413)
        if isinstance(body, ConfirmMessageReceivedRequest):
            # Flower would drop the message's parts now; they are kept until the reply, in case the site dies before it.
            request.state.protobuf_response = ConfirmMessageReceivedResponse()
            return Response()
        if isinstance(body, ActivateNodeRequest):
            answer = await run_in_threadpool(self._take_back, body)
            if answer is not None:
                request.state.protobuf_response = answer
                return Response()
        return await call_next(request)

    def _acceptable(self, body: PushMessagesRequest) -> bool:
        """A reply speaks for its own node, once, and its tree is its own and small."""
        if len(body.messages_list) != 1 or len(body.message_object_trees) != 1:
            return False
        metadata, tree = body.messages_list[0].metadata, body.message_object_trees[0]
        answered = self._state.message_ins_id_to_message_res_id.get(  # type: ignore[attr-defined]
            metadata.reply_to_message_id, metadata.message_id
        )
        return (
            metadata.src_node_id == body.node.node_id
            and metadata.message_id == tree.object_id == answered
            and sum(1 for _ in iterate_object_tree(tree)) <= MAX_OBJECTS
        )

    def _within_budget(self, body: PushObjectRequest) -> bool:
        return self._grid is not None and self._grid.charge(body.node.node_id, len(body.object_content))

    def _take_back(self, body: ActivateNodeRequest) -> ActivateNodeResponse | None:
        """Activate a node whose old life may still count as online; the signature proves that it is the same site.

        Both steps under one lock: a moment of being offline would drop the site from a running exchange.
        """
        with self._state.lock:  # type: ignore[attr-defined]
            node = self._state.get_node_id_by_public_key(body.public_key)
            if node is None or not HEARTBEAT_MIN_INTERVAL <= body.heartbeat_interval <= HEARTBEAT_MAX_INTERVAL:
                return None  # Flower's own handler refuses it in its own words
            self._state.deactivate_node(node)
            self._state.activate_node(node, body.heartbeat_interval)
            if self._grid is not None:
                self._grid.offer_again(node)
        return ActivateNodeResponse(node_id=node)

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
        """Open a new run if Flower has ended this one: after a pause of the machine the run's own heartbeat comes too late."""
        run_id = self._run.run_id
        if not self._ended.is_set() and self._state.get_run_status({run_id})[run_id].status == Status.FINISHED:
            self._state.cleanup_run(run_id)
            self._incomplete.clear()
            self._open_run()

    def charge(self, node: int, size: int) -> bool:
        """Count bytes that a node sends in this exchange; False beyond its budget."""
        self._spent[node] = self._spent.get(node, 0) + size
        return self._spent[node] <= self.reply_budget_bytes

    def offer_again(self, node: int) -> None:
        """Offer a returning site what it was sent but has not wholly answered: the process that took it may be gone."""
        answered = self._state.message_ins_id_to_message_res_id  # type: ignore[attr-defined]
        replies = self._state.message_res_store  # type: ignore[attr-defined]
        for identifier, message in list(self._state.message_ins_store.items()):  # type: ignore[attr-defined]
            if message.metadata.dst_node_id != node or not message.metadata.delivered_at:
                continue
            if identifier in answered:
                try:
                    assemble(answered[identifier], self._store.get, self.reply_budget_bytes)
                    continue  # the reply is whole
                except WireError:
                    continue
                except Incomplete:  # cut off in the middle of its upload
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
            inflated = assemble(identifier, self._store.get, self.reply_budget_bytes)
        except Incomplete:
            return None
        except WireError:
            content = RecordDict()  # not a packet: the round code leaves this site out and goes on
        else:
            content = inflated.content if inflated.has_content() else RecordDict()
        self._store.delete(identifier)
        whole: Message = Message(metadata=reply.metadata, content=content)  # type: ignore[call-overload]
        return whole

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("Salus takes replies one by one; use push_messages and pull_messages.")
