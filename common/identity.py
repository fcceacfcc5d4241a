"""Ed25519 key pairs, signatures over statements with a context, and key files that only their owner can read.

Every signature covers a *context* (what kind of statement this is) and the statement, joined by `hash_parts`, so that a
signature made for one purpose is never valid for another.
"""

import os
import re
import stat
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from salus.common.canonical import canonical_json, hash_parts
from salus.common.errors import IdentityError
from salus.common.strict import Strict
from salus.common.versions import check_format
from salus.common.words import fingerprint_bytes

KEY_FILE_MODE = 0o600
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32


class Identity:
    """An Ed25519 key pair for signing.

    The private key is never printed, copied out or compared; `repr` shows only the public key's fingerprint.
    """

    def __init__(self, private_key: ed25519.Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Create an identity from the operating system's randomness."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Create an identity from a 32-byte seed; only for test vectors and virtual sites."""
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file.

        Raises:
            IdentityError: missing, readable by others, or not an Ed25519 key.
        """
        key = load_private_key(path)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise IdentityError(f"Expected an Ed25519 key in {path.name!r}.", remedy="Run the init command again.")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a new key file with mode 0600; an existing file is never overwritten."""
        save_private_key(self._private_key, path)

    def sign(self, context: str, *parts: bytes | str) -> bytes:
        """Return a 64-byte signature over ``H(context, parts...)``."""
        return self.sign_raw(hash_parts(context, *parts))

    def sign_raw(self, message: bytes) -> bytes:
        """Return a 64-byte signature over `message` itself, which must already include its context."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self.public_key)})"


def verify(public_key: bytes, signature: bytes, context: str, *parts: bytes | str, who: str = "the signer") -> None:
    """Check a signature made by `Identity.sign`.

    Raises:
        IdentityError: the signature does not verify for this key, context and parts.
    """
    verify_raw(public_key, signature, hash_parts(context, *parts), what=context, who=who)


def verify_raw(public_key: bytes, signature: bytes, message: bytes, *, what: str, who: str) -> None:
    """Check a signature made by `Identity.sign_raw`; errors as in `verify`."""
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise IdentityError(
            f"Expected {who}'s signature over the {what} statement, but the signature does not verify.",
            remedy="Stop here. Compare the key fingerprints of both sides by telephone.",
        ) from None


def fingerprint(public_key: bytes) -> str:
    """Return a fingerprint that two people can compare by telephone: 8 groups of 4 hex digits."""
    digest = fingerprint_bytes(public_key).hex()
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def save_private_key(key: PrivateKey, path: Path) -> None:
    """Write `key` as PKCS#8 PEM to a new file of mode 0600, on disk when this returns."""
    pem = serialization.Encoding.PEM
    save_secret(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), path)


def save_secret(data: bytes, path: Path) -> None:
    """Write `data` to a new file of mode 0600, on disk when this returns; an existing file is never overwritten.

    Raises:
        IdentityError: the file exists.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_FILE_MODE)
    except FileExistsError:
        raise IdentityError(
            f"The key file {path.name!r} already exists and is never overwritten.",
            remedy="Choose another folder, or move the old key if it is no longer needed.",
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load_private_key(path: Path) -> PrivateKey:
    """Read a PEM private key that is readable only by its owner; errors as in `Identity.load`."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise IdentityError(
                f"Expected mode 0600 on the key file {path.name!r}, but it is {mode:04o}.",
                remedy=f"Run `chmod 600 {path.name}`; other users of this machine may have read the key.",
            )
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise IdentityError(f"Expected a key file {path.name!r}.", remedy="Run the init command first.") from None
    except (ValueError, TypeError, OSError):
        raise IdentityError(f"Cannot read the key file {path.name!r}.", remedy="Restore it from a backup.") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise IdentityError(
            f"Expected an Ed25519 or elliptic-curve key in {path.name!r}.", remedy="Restore it from a backup."
        )
    return key


class Signed(Strict):
    """A signed document as it is stored and sent, with all values in hex or text."""

    context: str
    document: str
    signature: str

    @classmethod
    def seal(cls, identity: Identity, context: str, document: bytes) -> Self:
        """Sign canonical `document` bytes under `context`."""
        return cls(context=context, document=document.decode(), signature=identity.sign(context, document).hex())

    def open(self, public_key: bytes, context: str, *, who: str) -> bytes:
        """Return the document's bytes after checking context and signature.

        Raises:
            IdentityError: another kind of statement, or a signature that does not verify.
        """
        kind, _, number = context.rpartition("/")
        stated_kind, _, stated = self.context[:40].rpartition("/")
        if stated_kind == kind and stated != number and re.fullmatch(r"[0-9]{1,6}", stated):
            check_format(int(stated), int(number), what=f"{kind} statement", error=IdentityError)
        if self.context != context:
            raise IdentityError(
                f"Expected a {context!r} statement, got {self.context[:40]!r}.",
                remedy="Ask the sender for the right file.",
            )
        document = self.document.encode()
        verify(public_key, unhex(self.signature), context, document, who=who)
        return document

    def to_bytes(self) -> bytes:
        """Return the form that is stored and sent."""
        return canonical_json(self.model_dump(mode="json"))


def unhex(text: str) -> bytes:
    """Return the bytes of a hex string; raises IdentityError for anything else."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise IdentityError(
            "Expected a value in hexadecimal.", remedy="The file is damaged; ask for it again."
        ) from None
