"""Requests and replies of the link as Flower's messages, which a `ClientApp` takes and returns."""

from flwr.app import Message, Metadata, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from salus.client.link_direct import Delivery, Meta
from salus.common.errors import WireError
from salus.common.packets import content_of, parts_of


def message_of(delivery: Delivery) -> Message:
    """Return a request as a message."""
    meta = delivery.meta
    metadata = Metadata(
        run_id=int(meta.run),
        message_id=meta.message,
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=int(meta.node),
        reply_to_message_id="",
        group_id=meta.group,
        created_at=meta.created,
        ttl=meta.ttl,
        message_type=meta.type,
    )
    whole: Message = Message(metadata=metadata, content=content_of(delivery.header, delivery.blob))  # type: ignore[call-overload]
    return whole


def delivery_of(message: Message) -> Delivery:
    """Return a request that came as a message; content that is not a packet becomes an empty one, which the app refuses."""
    known = message.metadata
    meta = Meta(
        message=known.message_id,
        type=known.message_type,
        run=str(known.run_id),
        node=str(known.dst_node_id),
        group=known.group_id,
        created=known.created_at,
        ttl=known.ttl,
    )
    return Delivery(meta, *_parts(message.content))


def answer_of(reply: Message) -> tuple[Delivery, bytes, bytes]:
    """Return which request a reply is for, its header and its blob."""
    known = reply.metadata
    meta = Meta(
        message=known.reply_to_message_id,
        type=known.message_type,
        run=str(known.run_id),
        node=str(known.src_node_id),
        group=known.group_id,
        created=known.created_at,
        ttl=max(known.ttl, 1.0),
    )
    return Delivery(meta, b"", b""), *_parts(reply.content)


def _parts(content: RecordDict) -> tuple[bytes, bytes]:
    try:
        return parts_of(content)
    except WireError:
        return b"", b""
