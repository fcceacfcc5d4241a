"""Who made a file: the model and this version of Salus; and identifiers that follow from what a file says."""

import hashlib
from dataclasses import dataclass

MANUFACTURER = "Salus"
RESEARCH = "RESEARCH"  # Content Qualification (PS3.3, C.12.1)
MARK = "For research use"  # begins the description of everything that goes into a PACS
MOST_TITLE = 64  # characters of DICOM's long string (PS3.5, 6.2)


@dataclass(frozen=True)
class Producer:
    """The model behind an output.

    Args:
        job: name of the job that trained it.
        model_sha256: of the model's file, hex.
        version: of Salus.
        output: stands for the content in identifiers, where a repeated prediction must be the same object although its content
            may differ in a last digit; empty: the content itself.
    """

    job: str
    model_sha256: str
    version: str
    output: str = ""

    def title(self, what: str) -> str:
        """Return the description of an object, which says what it is for before anything else."""
        return f"{MARK}: {what} by {self.job}"[:MOST_TITLE].rstrip()

    def content(self, data: bytes) -> bytes:
        """Return what an object's content adds to its identifier."""
        return self.output.encode() or data

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
