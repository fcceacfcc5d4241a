"""The coordinator's end of the link: only Flower's Fleet routes, over Flower's own state, in this process.

Flower's SuperLink serves its unauthenticated control API together with the Fleet API; anyone who reaches it can run code at every
site. Here only the Fleet router is mounted, under mutual TLS and node keys from the roster; no node can register itself.
Flower's classes used here are not public API: the version is pinned, and `tests/server/test_link.py` tests the contract.

    middlewares, outermost first     what each does
    signed requests                  a roster node's signature over the body, and its size, before the body is read
    error translator (Flower)        errors to JSON without internals
    protobuf translation (Flower)
    node authentication (Flower)     signature over the time; the claimed node id must belong to the key
    own rules                        a reply must come from its own node; a restarted site is accepted again at once
    long poll                        a pull waits for a message instead of returning empty
"""

from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_MAX_INTERVAL,
    HEARTBEAT_MIN_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse, PushObjectRequest
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    iterate_object_tree,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from salus.common.clock import Clock, SystemClock
from salus.common.objects import MAX_OBJECTS
from salus.server.link_auth import SignedRequests
from salus.server.link_grid import Bell, LinkGrid
from salus.server.probe import Probes

LONG_POLL_S = 20.0  # below the client's 30 s read time-out and the usual limits of proxies


class Link:
    """Flower's link state with the roster's nodes, and the app that serves them.

    Args:
        node_keys: PEM public key of each site's node, by site id.
        clock: clock that the time in a request's signature is checked against.
        mismatched: see `SignedRequests`.
        roster: returns the serial of the coordinator's newest roster, for `salus doctor` at a site.
    """

    def __init__(
        self,
        node_keys: Mapping[int, str],
        clock: Clock | None = None,
        mismatched: Callable[[int], None] = lambda version: None,
        roster: Callable[[], int] = lambda: 0,
    ) -> None:
        clock = clock or SystemClock()
        self._probes = Probes(clock.now, clock.monotonic_s, roster)
        self._mismatched = mismatched
        self._factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        )
        self._state = self._factory.state()
        self._site_of = {
            self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key.encode(), HEARTBEAT_DEFAULT_INTERVAL): site
            for site, key in node_keys.items()
        }
        self._bell = Bell()
        self._grid: LinkGrid | None = None
        self.app = self._make_app(list(node_keys.values()), clock)

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

    def _make_app(self, node_keys: list[str], clock: Clock) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.state.linkstate_factory = self._factory
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        # Added innermost first.
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._long_poll)
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._own_rules)
        app.add_middleware(NodeAuthMiddleware)
        app.add_middleware(ProtobufTranslationMiddleware)
        app.add_middleware(BaseHTTPMiddleware, dispatch=http_error_translator)
        app.add_middleware(
            SignedRequests, node_keys=node_keys, clock=clock, mismatched=self._mismatched, probes=self._probes
        )
        return app

    async def _own_rules(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        body = getattr(request.state, "protobuf_request", None)
        if isinstance(body, PushMessagesRequest) and not self._acceptable(body):
            return JSONResponse(
                {
                    "detail": "Expected one reply of this node, with its own object tree, to a request that is still open"
                },
                403,
            )
        if isinstance(body, PushObjectRequest) and not self._within_budget(body):
            return JSONResponse({"detail": "The reply is larger than allowed"}, status_code=413)
        if isinstance(body, ConfirmMessageReceivedRequest):
            # Flower would drop the message's parts now; they are kept until the reply, in case the site stops before that.
            request.state.protobuf_response = ConfirmMessageReceivedResponse()
            return Response()
        if isinstance(body, ActivateNodeRequest):
            answer = await run_in_threadpool(self._take_back, body)
            if answer is not None:
                request.state.protobuf_response = answer
                return Response()
        return await call_next(request)

    def _acceptable(self, body: PushMessagesRequest) -> bool:
        """Check that a reply comes from its own node, only once, with its own small tree."""
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
        """Activate a node that may still count as online from before a restart; the signature proves that it is the same site.

        Both steps happen under one lock: even briefly offline, the site would be dropped from a running exchange.
        """
        with self._state.lock:  # type: ignore[attr-defined]
            node = self._state.get_node_id_by_public_key(body.public_key)
            if node is None or not HEARTBEAT_MIN_INTERVAL <= body.heartbeat_interval <= HEARTBEAT_MAX_INTERVAL:
                return None  # Flower's own handler refuses it with its own text
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
