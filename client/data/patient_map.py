"""Which patient each pseudonym stands for, for the site alone: sealed identifiers in ``keys``, beside the key that opens them.

A finding in an image, or a patient who withdraws, must lead back to a person. The identifier is sealed in the decoding child,
so the importing process never holds it.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from salus.client.data.sealing import Sealer
from salus.common.errors import DataError

PURPOSE = "patients"
FILE = "patients.sealed"


class PatientMap:
    """Sealed identifiers by pseudonym, one line each; a line truncated by a crash is ignored."""

    def __init__(self, keys: Path) -> None:
        self._path = keys / FILE
        self._sealed: dict[str, str] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="ascii", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    pseudonym, sealed = json.loads(line)
                    self._sealed[str(pseudonym)] = str(sealed)

    def remember(self, sealed: Mapping[str, str]) -> None:
        """Keep the sealed identifiers of patients by pseudonym, on disk when this returns; known ones are not written again."""
        new = {name: text for name, text in sealed.items() if text and name not in self._sealed}
        if not new:
            return
        handle = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            # A line break first: the last line may have been truncated.
            file.writelines(f"\n{json.dumps(line)}" for line in new.items())
            file.flush()
            os.fsync(file.fileno())
        self._sealed |= new

    def knows(self, pseudonym: str) -> bool:
        """Return whether a patient's identifier is kept."""
        return pseudonym in self._sealed

    def find(self, pseudonym: str, secret: bytes) -> str:
        """Return the hospital's own identifier of a patient; raises DataError for a pseudonym that is not from an import."""
        sealed = self._sealed.get(pseudonym)
        if sealed is None:
            raise DataError(
                "No imported patient has this pseudonym.",
                remedy="For data registered with salus dataset add, the identifiers are in the data's own files.",
            )
        return Sealer(secret, PURPOSE).open(sealed)
