"""The site's end of version 1 of the protocol: Flower's Fleet protocol, for a coordinator that is not upgraded yet.

Part of the link (`client/link.py`). Not `http_request_response` of Flower: it sends SIGINT to its own process on a 401, which
is what a restarted coordinator answers to an old node id. The classes used here are not public API;
`tests/server/test_link_fleet.py` holds the contract.
"""

import ssl
import time
from collections import deque

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from salus.client.link_direct import Delivery
from salus.client.link_guard import CALL_TIMEOUT_S, BodySignatureInterceptor, ResponseGuard, translated
from salus.client.link_message import delivery_of, message_of
from salus.common.clock import Clock
from salus.common.errors import LinkError, WireError
from salus.common.objects import Incomplete, assemble
from salus.common.packets import content_of
from salus.common.versions import PROTOCOL_HEADER

UNAVAILABLE_WAIT_S = 0.05
UNAVAILABLE_TRIES = 200
REMEMBERED = 64  # answered messages that a coordinator may offer once more after a reconnection
FLEET_PROTOCOL = 1


class FleetCalls:
    """The calls of version 1; arguments and errors as in `FleetLink`."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        node_key: ec.EllipticCurvePrivateKey,
        clock: Clock,
        max_message_bytes: int,
    ) -> None:
        public = node_key.public_key()
        self._public = public_key_to_bytes(public)
        self._client = FleetHttpClient(
            url,
            verify=tls,
            timeout=CALL_TIMEOUT_S,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(node_key, public),
                BodySignatureInterceptor(node_key, clock),
            ],
        )
        http = self._client._client
        http.follow_redirects = False
        http.headers["accept-encoding"] = "identity"
        http.headers[PROTOCOL_HEADER] = str(FLEET_PROTOCOL)
        http.event_hooks = {"response": [ResponseGuard()]}
        self._max_message_bytes = max_message_bytes
        self._node: Node | None = None
        self._answered: deque[str] = deque(maxlen=REMEMBERED)

    def activate(self) -> int:
        """Register this site, and return the node id that the coordinator assigned."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        with translated():
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        return self._node.node_id

    def heartbeat(self) -> None:
        """Send a heartbeat."""
        request = SendNodeHeartbeatRequest(node=self._here(), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        with translated():
            alive = self._client.SendNodeHeartbeat(request).success
        if not alive:
            raise LinkError(
                "The coordinator has forgotten this site's connection.", remedy="The site reconnects by itself."
            )

    def receive(self) -> Message | None:
        """Wait for one message, up to the coordinator's long-poll time; None if there was none."""
        with translated():
            response = self._client.PullMessages(PullMessagesRequest(node=self._here()))
            if not response.messages_list:
                return None
            bare = message_from_proto(response.messages_list[0])
            if bare.metadata.message_id in self._answered:
                return None
            try:
                root = response.message_object_trees[0].object_id
                message = assemble(
                    root, lambda name: self._pull_object(bare.metadata.run_id, name), self._max_message_bytes
                )
                content = message.content if message.has_content() else RecordDict()
            except (WireError, IndexError):
                content = RecordDict()  # an empty message is refused by the app, so that the coordinator hears of it
            except Incomplete:
                raise LinkError(
                    "Part of a message is no longer available.",
                    remedy="No action is needed: the coordinator has abandoned this message.",
                ) from None
        # No ConfirmMessageReceived: the coordinator keeps the parts until the reply, in case this process dies before it.
        whole: Message = Message(metadata=bare.metadata, content=content)  # type: ignore[call-overload]
        return whole

    def take(self) -> Delivery | None:
        """Wait for one request."""
        message = self.receive()
        return None if message is None else delivery_of(message)

    def answer(self, delivery: Delivery, header: bytes, blob: bytes) -> None:
        """Send the reply to a request."""
        self.send(Message(content_of(header, blob), reply_to=message_of(delivery)))

    def _pull_object(self, run_id: int, object_id: str) -> bytes | None:
        request = PullObjectRequest(node=self._here(), run_id=run_id, object_id=object_id)
        for _ in range(UNAVAILABLE_TRIES):
            response = self._client.PullObject(request)
            if not response.object_found:
                break
            if response.object_available:
                return bytes(response.object_content)
            time.sleep(UNAVAILABLE_WAIT_S)
        raise LinkError(
            "Part of a message is no longer available.",
            remedy="No action is needed: the coordinator has abandoned this message.",
        )

    def send(self, reply: Message) -> None:
        """Send a reply: first the message, then its parts, as Flower's protocol requires."""
        with no_object_id_recompute(), translated():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree = get_object_tree(reply)
            bare = Message(metadata=reply.metadata, content=RecordDict())  # type: ignore[call-overload]
            response = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._here(), messages_list=[message_to_proto(bare)], message_object_trees=[tree]
                )
            )
            wanted = set(response.objects_to_push)
            for object_id, part in get_all_nested_objects(reply).items():
                if object_id in wanted:
                    self._client.PushObject(
                        PushObjectRequest(
                            node=self._here(),
                            run_id=reply.metadata.run_id,
                            object_id=object_id,
                            object_content=part.deflate(),
                            session_id=response.session_id,
                        )
                    )
        self._answered.append(reply.metadata.reply_to_message_id)

    def bye(self) -> None:
        """Sign off."""
        if self._node is not None:
            with translated():
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _here(self) -> Node:
        if self._node is None:
            raise LinkError("The site is not connected yet.", remedy="Call activate first.")
        return self._node
