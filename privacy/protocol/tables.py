"""Tables in messages: rows of a fixed width, each with a site's id; readers are strict, so every size is known beforehand."""

from collections.abc import Iterable, Mapping

from salus.common.canonical import u32
from salus.common.errors import ProtectionError

KEY_BYTES = 32  # X25519
SIGNATURE_BYTES = 64  # Ed25519
REMEDY = "The coordinator or a site is faulty or malicious; do not continue with this round."


def write_table(rows: Mapping[int, bytes]) -> bytes:
    """Return u32 id and value of each row, ids ascending."""
    return b"".join(u32(site) + rows[site] for site in sorted(rows))


def read_table(data: bytes, width: int, what: str) -> dict[int, bytes]:
    """Read rows of an id and `width` bytes; ids must ascend, so that none is repeated."""
    step = 4 + width
    if len(data) % step:
        raise wrong_length(what, data)
    rows: dict[int, bytes] = {}
    last = 0
    for start in range(0, len(data), step):
        site = int.from_bytes(data[start : start + 4], "big")
        if site <= last:
            raise ProtectionError(
                f"Expected ascending site ids in {what}; one is repeated or out of order.", remedy=REMEDY
            )
        rows[site] = data[start + 4 : start + step]
        last = site
    return rows


def write_ids(sites: Iterable[int]) -> bytes:
    """Return ids, ascending."""
    return write_table(dict.fromkeys(sites, b""))


def read_ids(data: bytes, what: str) -> frozenset[int]:
    """Read ids, ascending."""
    return frozenset(read_table(data, 0, what))


def wrong_length(what: str, data: bytes) -> ProtectionError:
    """Return the error for a message of another length than expected."""
    return ProtectionError(f"Expected {what}, got {len(data)} bytes in another format.", remedy=REMEDY)
