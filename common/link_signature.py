"""The signature that a site's node key puts on every request of the link; both ends use this file.

Flower's own signature covers only the time, so the body could be replaced. This one covers method, path, time and the
SHA-256 of the body, and it is part of the request's head, so the coordinator can check it before it reads the body.

    salus-time        ISO 8601 with a time zone
    salus-body        SHA-256 of the body, in hex
    salus-signature   base64 of ECDSA (P-384, SHA-256) over H("salus/link/1", method, path, salus-time, salus-body)

A request that is replayed within `TOLERANCE_S` is accepted again. It has the same content both times, and it can be
recorded only inside the TLS connection.
"""

import binascii
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.canonical import hash_parts

CONTEXT = "salus/link/1"
TIME, BODY, SIGNATURE = "salus-time", "salus-body", "salus-signature"
NODE = "salus-node"  # which key has signed: the SHA-256, in hex, of its SubjectPublicKeyInfo
TOLERANCE_S = 300.0  # difference between the two clocks; hospital clocks are rarely worse
MAX_VALUE = 256  # length of one of these headers; a P-384 signature in base64 has at most 140


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the name of a node key in the header `NODE`."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def sign_request(key: ec.EllipticCurvePrivateKey, method: str, path: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the three headers of a request."""
    time, digest = now.isoformat(), hashlib.sha256(body).hexdigest()
    signature = key.sign(hash_parts(CONTEXT, method, path, time, digest), ec.ECDSA(hashes.SHA256()))
    return {TIME: time, BODY: digest, SIGNATURE: b64encode(signature).decode()}


def signed_body(
    key: ec.EllipticCurvePublicKey, method: str, path: str, headers: Mapping[str, str], now: datetime
) -> str | None:
    """Return the SHA-256, in hex, that the request's body must have; None if the signature is not valid."""
    time, digest, signature = (headers.get(name, "") for name in (TIME, BODY, SIGNATURE))
    if max(len(time), len(digest), len(signature)) > MAX_VALUE:
        return None
    try:
        if abs((now - datetime.fromisoformat(time)).total_seconds()) > TOLERANCE_S:
            return None
        statement = hash_parts(CONTEXT, method, path, time, digest)
        key.verify(b64decode(signature, validate=True), statement, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, OverflowError, InvalidSignature, binascii.Error):
        return None
    return digest
