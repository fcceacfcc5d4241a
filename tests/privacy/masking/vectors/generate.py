"""Write ``statements.json``: what the first vectors of the masked sum leave open. Run it with ``python -m`` from the root.

Everything in it follows from fixed keys by the text of ``docs/masked-sum.md``; it is computed here from primitives alone, so
that the product is tested against a second writing of the text.
"""

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = Path(__file__).with_name("statements.json")
SITES, SENDER, RECEIVER = 5, 2, 4


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def hashed(*parts: bytes | str) -> bytes:
    whole = b""
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole += len(data).to_bytes(8, "big") + data
    return hashlib.sha256(whole).digest()


def private(site: int, what: int) -> bytes:
    return hashlib.sha256(bytes([what, site])).digest()


def public(key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def make() -> dict[str, object]:
    """Return the vectors."""
    session = hashlib.sha256(b"session of these vectors").digest()
    channels = {site: private(site, 1) for site in range(1, SITES + 1)}
    masks = {site: private(site, 2) for site in range(1, SITES + 1)}
    adverts = hashed("adverts", *(u32(s) + public(channels[s]) + public(masks[s]) for s in channels))
    material = X25519PrivateKey.from_private_bytes(channels[SENDER]).exchange(
        X25519PublicKey.from_public_bytes(public(channels[RECEIVER]))
    )
    info = hashed("share", u32(SENDER), u32(RECEIVER))
    key = HKDF(hashes.SHA256(), 32, salt=session, info=info).derive(material)
    associated = hashed(session, u32(SENDER), u32(RECEIVER), adverts)
    seed_share, mask_share = bytes(range(66)), bytes(range(66, 132))
    statement = bytes([1 | 2]) + (7).to_bytes(2, "big")  # training and validation data, at least seven sites
    box = ChaCha20Poly1305(key).encrypt(bytes(12), seed_share + mask_share + statement, associated)
    return {
        "session": session.hex(),
        "sites": {
            str(s): {"channel_private": channels[s].hex(), "channel_public": public(channels[s]).hex(),
                     "mask_private": masks[s].hex(), "mask_public": public(masks[s]).hex()}
            for s in channels
        },
        "adverts_hash": adverts.hex(),
        "box": {
            "sender": SENDER, "receiver": RECEIVER, "key": key.hex(), "associated_data": associated.hex(),
            "seed_share": seed_share.hex(), "mask_share": mask_share.hex(),
            "statement": {"training": True, "validation": True, "measured": False, "minimum": 7, "bytes": statement.hex()},
            "sealed": box.hex(),
        },
    }  # fmt: skip


if __name__ == "__main__":
    HERE.write_text(json.dumps(make(), indent=1) + "\n")
