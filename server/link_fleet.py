"""Version 1 of the protocol: Flower's own Fleet routes, over Flower's own state, for sites that are not upgraded yet.

Part of the link (`server/link.py`). Flower's classes used here are not public API: the version is pinned, and
`tests/server/test_link_fleet.py` tests the contract.

    middlewares, outermost first     what each does
    signed requests                  a member's signature over the body, and its size, before the body is read
    error translator (Flower)        errors to JSON without internals
    protobuf translation (Flower)
    node authentication (Flower)     signature over the time; the claimed node id must belong to the key
    own rules                        a reply must come from its own node; a restarted site is accepted again at once
    long poll                        a pull waits for a message instead of returning empty
"""

import asyncio
from collections.abc import Callable, Iterable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL, HEARTBEAT_MIN_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse, PushObjectRequest
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp

from salus.common.objects import MAX_OBJECTS
from salus.server.link_auth import Gate, SignedRequests
from salus.server.link_direct import LONG_POLL_S
from salus.server.link_grid import LinkGrid
from salus.server.link_mail import Mailbox
from salus.server.probe import Probes


class FleetRoutes:
    """Flower's routes with the rules of Salus around them.

    Args:
        grids: returns the grids that are open now.
    """

    def __init__(
        self,
        factory: LinkStateFactory,
        gate: Gate,
        probes: Probes,
        mail: Mailbox,
        grids: Callable[[], Iterable[LinkGrid]],
    ) -> None:
        self._state: LinkState = factory.state()
        self._mail, self._grids = mail, grids
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.state.linkstate_factory = factory
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        # Added innermost first.
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._long_poll)
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._own_rules)
        app.add_middleware(NodeAuthMiddleware)
        app.add_middleware(ProtobufTranslationMiddleware)
        app.add_middleware(BaseHTTPMiddleware, dispatch=http_error_translator)
        self.app: ASGIApp = SignedRequests(app, gate, probes)

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
        response = await call_next(request)
        if isinstance(body, PushMessagesRequest | PushObjectRequest):
            for grid in self._grids():
                grid.wake()
        return response

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
        return any(
            grid.run.run_id == body.run_id and grid.fleet.charge(body.node.node_id, len(body.object_content))
            for grid in self._grids()
        )

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
            self._mail.forget_site(node)  # it no longer speaks version 2, if it did
            for grid in self._grids():
                grid.fleet.offer_again(node)
        self._mail.ring(node)
        return ActivateNodeResponse(node_id=node)

    async def _long_poll(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        body = getattr(request.state, "protobuf_request", None)
        if isinstance(body, PullMessagesRequest):
            node = body.node.node_id
            event = self._mail.waiter(node)
            try:
                if not self._has_message(node):
                    await asyncio.wait_for(event.wait(), LONG_POLL_S)
            except TimeoutError:
                pass
            finally:
                self._mail.leave(node, event)
            if await request.is_disconnected():
                return Response(status_code=499)  # the message is left for the site's next connection
        return await call_next(request)

    def _has_message(self, node: int) -> bool:
        with self._state.lock:  # type: ignore[attr-defined]
            return any(
                message.metadata.dst_node_id == node and not message.metadata.delivered_at
                for message in self._state.message_ins_store.values()  # type: ignore[attr-defined]
            )
