"""De-identification of DICOM objects, and extraction of numbers from segmentations and reports, in a sandboxed child process."""

import hashlib
from dataclasses import astuple
from types import TracebackType

from salus.client.data.dicom.annotations import Annotation
from salus.client.data.dicom.decoder_cleaning import ANNOTATIONS, CLEAN, HEADER, Cleaned, Header, Numbers
from salus.client.data.dicom.deidentify import Clean, PixelMask
from salus.client.data.dicom.instances import Instance
from salus.client.data.dicom.isolation import Child, Decoding
from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.sandbox import LAYERS
from salus.common.errors import UnreadableImage

MAX_SECONDS = 5.0
MAX_MEMORY_MB = 1024


class Isolated:
    """A child process that de-identifies one file at a time.

    Args:
        secret: the site's secret for pseudonyms; not needed for annotations.
        seconds: for one file.
        layers: of the sandbox, see `isolation.Decoding`.
        structures: labels of the segments that segmentations keep; with none, segmentations are refused.

    Guarantees: as `isolation.Child`.
    """

    def __init__(
        self,
        secret: bytes = b"",
        masks: tuple[PixelMask, ...] = (),
        *,
        seconds: float = MAX_SECONDS,
        layers: tuple[str, ...] = LAYERS,
        structures: tuple[str, ...] = (),
    ) -> None:
        decoding = Decoding(layers=layers, memory_mb=MAX_MEMORY_MB, seconds=seconds)
        settings = {"masks": [astuple(mask) for mask in masks], "structures": structures}
        self._child = Child("salus.client.data.dicom.decoder_cleaning:Cleaning", settings, secret, decoding)

    def __enter__(self) -> "Isolated":
        self._child.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()

    @property
    def process_id(self) -> int:
        """The child's process id, 0 while there is none; for measurements."""
        return self._child.process_id

    def clean(self, data: bytes) -> Clean:
        """Return the de-identified object of a file's bytes.

        Raises:
            UnreadableImage: with its reason; ``too-slow`` or ``crashed`` if the child was killed or died.
        """
        _bounded(data)
        answer, body = self._child.ask(CLEAN, Cleaned, data=data)
        cleaned = bytes(body)
        name = hashlib.sha256(cleaned).hexdigest()
        counts: dict[str, int] = {str(rule): count for rule, count in answer.counts.items()}
        return Clean(
            cleaned, name, answer.patient, answer.study, answer.vendor, answer.sealed_patient, counts, answer.annotation
        )

    def annotations(self, data: bytes) -> tuple[Annotation, ...]:
        """Return what a SEG or SR object measures; errors as in `clean`."""
        _bounded(data)
        return self._child.ask(ANNOTATIONS, Numbers, data=data)[0].found

    def header(self, data: bytes) -> Instance:
        """Return what a derived object repeats of an image's header; errors as in `clean`."""
        _bounded(data)
        return self._child.ask(HEADER, Header, data=data)[0].instance


def _bounded(data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImage("too-large", f"more than {MAX_FILE_BYTES} bytes")
