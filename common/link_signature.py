"""The signature that a site's node key puts on every request of the link; both ends use this file.

Flower's own signature covers only the time, so the body could be replaced. This one covers method, path, time and the
SHA-256 of the body, and it is part of the request's head, so the coordinator can check it before it reads the body.

    salus-time        ISO 8601 with a time zone
    salus-body        SHA-256 of the body, in hex
    salus-signature   base64 of ECDSA (P-384, SHA-256) over H("salus/link/1", method, path, salus-time, salus-body)

From version 2 of the protocol on, a site signs its first request only. That request carries a fresh X25519 key of the site; the
coordinator answers with its own, and both derive a session key. Every later request has, in place of the signature, an
HMAC-SHA256 of the same statement under that key: a fiftieth of the cost. Without the site's fresh private key nobody can make
such a request, not even one who sits inside the TLS connection.

    salus-session     which session key; salus-signature is then HMAC-SHA256 in hex

A request that is replayed within `TOLERANCE_S` is accepted again. It has the same content both times, and it can be
recorded only inside the TLS connection.
"""

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from salus.common.canonical import hash_parts

CONTEXT = "salus/link/1"
TIME, BODY, SIGNATURE = "salus-time", "salus-body", "salus-signature"
NODE = "salus-node"  # which key has signed: the SHA-256, in hex, of its SubjectPublicKeyInfo
SESSION = "salus-session"
SESSION_CONTEXT = "salus/link/2"
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


def ahead_s(
    key: ec.EllipticCurvePublicKey, method: str, path: str, headers: Mapping[str, str], now: datetime
) -> float | None:
    """Return by how many seconds the clock that signed a request is ahead of `now`, negative if it is behind.

    None within the tolerance, and for a signature that is not valid at its own time either.
    """
    try:
        stated = datetime.fromisoformat(headers.get(TIME, "")[:MAX_VALUE])
        ahead = (stated - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    wrong = abs(ahead) > TOLERANCE_S and signed_body(key, method, path, headers, stated)
    return ahead if wrong else None


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public half of a fresh key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def session_key(mine: X25519PrivateKey, theirs: bytes, *, site: bytes, coordinator: bytes) -> bytes:
    """Return the key of a session, 32 bytes.

    Args:
        theirs: the other side's fresh public key.
        site, coordinator: both fresh public keys, which the key is bound to.

    Raises:
        ValueError: not a public key, or one that gives no secret.
    """
    shared = mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    info = hash_parts(SESSION_CONTEXT, site, coordinator)
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def mac_request(key: bytes, session: str, method: str, path: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the four headers of a request within a session."""
    time, digest = now.isoformat(), hashlib.sha256(body).hexdigest()
    mac = hmac.digest(key, hash_parts(SESSION_CONTEXT, method, path, time, digest), "sha256").hex()
    return {TIME: time, BODY: digest, SIGNATURE: mac, SESSION: session}


def maced_body(key: bytes, method: str, path: str, headers: Mapping[str, str], now: datetime) -> str | None:
    """Return the SHA-256, in hex, that the request's body must have; None if its HMAC is not valid."""
    time, digest, mac = (headers.get(name, "") for name in (TIME, BODY, SIGNATURE))
    if max(len(time), len(digest), len(mac)) > MAX_VALUE or not mac.isascii():
        return None
    try:
        if abs((now - datetime.fromisoformat(time)).total_seconds()) > TOLERANCE_S:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    expected = hmac.digest(key, hash_parts(SESSION_CONTEXT, method, path, time, digest), "sha256").hex()
    return digest if hmac.compare_digest(expected, mac) else None
