"""The sites' uploads, on disk until the key holder has decrypted their sum."""

import hashlib
import tempfile
import weakref
from typing import IO

from salus.common.errors import ProtectionError
from salus.privacy.encryption.scheme import LARGEST_CIPHERTEXT_BYTES
from salus.privacy.protocol.collecting import LEFT_OUT
from salus.privacy.protocol.contributors import STATEMENT_BYTES

SEAL_BYTES = 16
LARGEST_CHUNK_BYTES = STATEMENT_BYTES + LARGEST_CIPHERTEXT_BYTES + SEAL_BYTES


class Spool:
    """All sites' uploads in one file on disk: where each site's chunks are, and their hashes."""

    def __init__(self) -> None:
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="salus-")  # noqa: SIM115  # lives as long as the session
        except OSError as problem:
            raise _full(problem) from None
        weakref.finalize(self, self._file.close)  # an abandoned session leaves no open file
        self._places: dict[int, list[tuple[int, int]]] = {}
        self.hashes: dict[int, list[bytes]] = {}

    def append(self, site: int, part: bytes) -> None:
        """Store the next chunk of a site; raises ProtectionError, naming the site, if it is too large."""
        if len(part) > LARGEST_CHUNK_BYTES:
            raise ProtectionError(
                f"A chunk of site {site} has {len(part)} bytes; expected at most {LARGEST_CHUNK_BYTES}.",
                remedy=LEFT_OUT,
            )
        try:
            self._places.setdefault(site, []).append((self._file.seek(0, 2), len(part)))
            self._file.write(part)
        except OSError as problem:
            raise _full(problem) from None
        self.hashes.setdefault(site, []).append(hashlib.sha256(part).digest())

    def chunk(self, site: int, number: int) -> bytes:
        """Return a stored chunk."""
        place, size = self._places[site][number]
        self._file.seek(place)
        return self._file.read(size)

    def close(self) -> None:
        """Delete everything."""
        self._file.close()


def _full(problem: OSError) -> ProtectionError:
    return ProtectionError(f"Cannot store an upload: {problem.strerror}.", remedy="Free some disk space.")
