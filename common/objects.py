"""Flower's content-addressed objects, reassembled while trusting only their hashes.

A message travels as a tree of objects, each named by the SHA-256 of its bytes. Flower's store trusts the first tree that
names an object, and its `Array` may list one chunk millions of times. So both ends follow the children named in each object's
own bytes, and count before they build.
"""

import json
from collections.abc import Callable

from flwr.app import Message
from flwr.app.message.array import Array
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_id,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from salus.common.errors import WireError

MAX_OBJECTS = 20_000  # 5 MiB each: 100 GB, more than any model
MAX_ARRAY_BYTES = (
    256 * 2**10
)  # what describes an array: the numbers of its chunks; as JSON it takes eighty times as much memory


class Incomplete(Exception):
    """A part has not arrived yet."""


def assemble(root: str, fetch: Callable[[str], bytes | None], max_bytes: int) -> Message:
    """Return the message whose root object is `root`.

    Args:
        fetch: returns an object's bytes, or None while they are missing.
        max_bytes: limit on the size of all objects together, and of the arrays built from them.

    Raises:
        Incomplete: a part is missing.
        WireError: parts do not match their names, are too many or too large, or are not a message.
    """
    parts: dict[str, bytes] = {}
    waiting = [root]
    total = 0
    while waiting:
        name = waiting.pop()
        if name in parts:
            continue
        content = fetch(name)
        if not content:
            raise Incomplete
        total += len(content)
        if get_object_id(content) != name or total > max_bytes or len(parts) >= MAX_OBJECTS:
            raise WireError(
                "Expected parts that match their names and stay within the agreed size.",
                remedy="The message is ignored.",
            )
        parts[name] = content
        waiting += _children(content)
    try:
        if sum(_expanded_bytes(content, parts) for content in parts.values()) > max_bytes:
            raise WireError("Expected an array of the agreed size.", remedy="The message is ignored.")
        message = inflate_object_from_contents(root, parts)
    except WireError:
        raise
    except Exception as problem:  # Flower's parsers raise KeyError, TypeError, JSONDecodeError ... on forged bytes
        raise WireError(
            f"Expected a Flower message ({type(problem).__name__}).", remedy="The message is ignored."
        ) from None
    if not isinstance(message, Message):
        raise WireError("Expected a Flower message.", remedy="The message is ignored.")
    return message


def _children(content: bytes) -> list[str]:
    try:
        return [name for name in get_object_head_values_from_object_content(content)[1] if name]
    except Exception:
        raise WireError("Expected an object with a header.", remedy="The message is ignored.") from None


def _expanded_bytes(content: bytes, parts: dict[str, bytes]) -> int:
    """Return the size of an `Array` when its chunks are joined; 0 for any other object."""
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind != Array.__qualname__:
        return 0
    body = get_object_body(content, Array)
    if len(body) > MAX_ARRAY_BYTES:
        raise WireError(f"Expected an array's description of at most {MAX_ARRAY_BYTES} bytes.", remedy="It is ignored.")
    chunks = json.loads(body)["arraychunk_ids"]
    sizes = [len(parts[name]) for name in children if name]
    return sum(sizes[index] for index in chunks)
