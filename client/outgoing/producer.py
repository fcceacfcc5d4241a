"""Who made a file: the model and this version of Salus; and identifiers that follow from what a file says."""

import hashlib
from dataclasses import dataclass

MANUFACTURER = "Salus"


@dataclass(frozen=True)
class Producer:
    """The model behind an output.

    Args:
        job: name of the job that trained it.
        model_sha256: of the model's file, hex.
        version: of Salus.
    """

    job: str
    model_sha256: str
    version: str

    def uid(self, *parts: str | bytes) -> str:
        """Return a unique identifier (DICOM PS3.5, B.2) that only the same model and the same parts give.

        So the same prediction, made twice, is one object to an archive and not two.
        """
        digest = hashlib.sha256(b"salus/outgoing/1")
        for part in (self.model_sha256, self.version, *parts):
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
        number = int.from_bytes(digest.digest()[:16], "big")
        return f"2.25.{number}"
