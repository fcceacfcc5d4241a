"""Who may use the link now: the node keys of the roster's sites, and the connections on which each of them has been heard.

Part of the link (`server/link.py`). The members can change while the coordinator runs; a connection of a site that is no
longer one is closed at once, together with the long poll that waits on it.
"""

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.types import Scope

from salus.common.link_signature import fingerprint

CONNECTION = "salus.connection"  # key of a request's state under which `GuardedProtocol` puts itself


@dataclass(frozen=True)
class Member:
    """One site: its id, its node in Flower's state, and its node key."""

    site: int
    node: int
    pem: str
    key: ec.EllipticCurvePublicKey


def load_key(pem: str) -> ec.EllipticCurvePublicKey:
    """Return a node key of the roster."""
    key = serialization.load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # Safe because the roster's model checked it.
    return key


class Members:
    """The present members; may be read and changed from any thread."""

    def __init__(self, node_of: Mapping[str, int] | None = None, node_keys: Mapping[int, str] | None = None) -> None:
        self._lock = threading.Lock()
        self._heard: WeakKeyDictionary[Any, tuple[asyncio.AbstractEventLoop, int]] = WeakKeyDictionary()
        self._last_s: dict[int, float] = {}
        self._by_name: dict[str, Member] = {}
        self._by_bytes: dict[bytes, Member] = {}
        self._by_node: dict[int, Member] = {}
        if node_keys:
            self.replace(node_keys, node_of or {pem: site for site, pem in node_keys.items()})

    def replace(self, node_keys: Mapping[int, str], node_of: Mapping[str, int]) -> set[int]:
        """Make these the members, close the connections of those that are no longer, and return their nodes.

        Args:
            node_keys: PEM public key by site id.
            node_of: node by PEM public key.
        """
        members = [Member(site, node_of[pem], pem, load_key(pem)) for site, pem in node_keys.items()]
        with self._lock:
            gone = set(self._by_node) - {member.node for member in members}
            self._by_name = {fingerprint(member.key): member for member in members}
            self._by_bytes = {public_key_to_bytes(member.key): member for member in members}
            self._by_node = {member.node: member for member in members}
            cut = [(loop, protocol) for protocol, (loop, node) in self._heard.items() if node in gone]
        for loop, protocol in cut:
            loop.call_soon_threadsafe(protocol.abort)
        return gone

    def named(self, name: str) -> Member | None:
        """Return the member with this fingerprint of its key."""
        return self._by_name.get(name)

    def with_bytes(self, key: bytes) -> Member | None:
        """Return the member with this key, as Flower's headers hold it."""
        return self._by_bytes.get(key)

    def at(self, node: int) -> Member | None:
        """Return the member of a node."""
        return self._by_node.get(node)

    def heard(self, scope: Scope, member: Member) -> bool:
        """Remember that a signed request of a member came on this connection; return whether it still is a member."""
        connection = scope.get("state", {}).get(CONNECTION)
        with self._lock:
            if connection is not None:
                self._heard[connection] = (asyncio.get_running_loop(), member.node)
            self._last_s[member.node] = time.monotonic()
            present = self._by_node.get(member.node)
            return present is not None and present.pem == member.pem

    def silent_s(self, node: int) -> float:
        """Return the seconds since the last signed request of a member."""
        with self._lock:
            return time.monotonic() - self._last_s.get(node, -math.inf)
