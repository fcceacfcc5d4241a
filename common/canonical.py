"""Encodings that all parties compute identically: the hash over parts, and canonical JSON.

`hash_parts` is ``H`` of the masked-sum protocol: SHA-256 over each part preceded by its length as u64 big-endian, so that
no two different lists of parts have the same encoding.
"""

import hashlib
import json
from typing import Any


def u32(value: int) -> bytes:
    """Return `value` as four bytes, big-endian; raises OverflowError outside 0 .. 2^32 - 1."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Return `value` as eight bytes, big-endian; raises OverflowError outside 0 .. 2^64 - 1."""
    return value.to_bytes(8, "big")


def hash_parts(*parts: bytes | str) -> bytes:
    """Return SHA-256 over the parts, each preceded by its length; text is taken as UTF-8.

    Guarantees: injective on lists of parts up to collisions of SHA-256.

    >>> hash_parts("ab", "c") == hash_parts("a", "bc")
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(u64(len(data)))
        digest.update(data)
    return digest.digest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON encoding of `value`: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises:
        ValueError: a number is not finite.

    >>> canonical_json({"b": 1, "a": [1.5, "ä"]}).decode()
    '{"a":[1.5,"ä"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
