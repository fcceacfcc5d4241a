"""De-identification of DICOM objects, and extraction of numbers from segmentations and reports, in a sandboxed child process."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from types import TracebackType

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.annotations import Annotation
from salus.client.data.dicom.burned_in import Blanked
from salus.client.data.dicom.decoder_cleaning import (
    ANNOTATIONS,
    CLEAN,
    CLEAN_MANY,
    DERIVE,
    HEADER,
    IDENTIFY,
    Cleaned,
    CleanedMany,
    Derived,
    Deriving,
    Header,
    Identity,
    Numbers,
)
from salus.client.data.dicom.deidentify import Clean, PixelMask
from salus.client.data.dicom.derived import Derivation
from salus.client.data.dicom.instances import Instance
from salus.client.data.dicom.isolation import Child, Decoding, raised
from salus.client.data.dicom.matching import Others
from salus.client.data.dicom.messages import MAX_FILE_BYTES, Problem
from salus.client.data.sandbox import LAYERS
from salus.common.errors import UnreadableImage

MAX_SECONDS = 5.0
MAX_SECONDS_OF_TEXT = 180.0  # a picture of 640 x 480 takes about two, and a clip seven times as long
MAX_MEMORY_MB = 2048  # three copies of the largest file: as it came, as it is parsed, and its pixels
TOO_LARGE = "too-large"


class Isolated:
    """A child process that de-identifies files.

    Args:
        secret: the site's secret for pseudonyms; not needed for annotations.
        seconds: of processor time for one file; None for the default, which is longer where text is found.
        layers: of the sandbox, see `isolation.Decoding`.
        structures: labels of the segments that segmentations keep; with none, segmentations are refused.
        include: kinds of objects that are taken although they are no usual training pictures, see `kinds`.
        text: find burned-in text, which needs the detector, see `text.installed`.

    Guarantees: as `isolation.Child`.
    """

    def __init__(
        self,
        secret: bytes = b"",
        masks: tuple[PixelMask, ...] = (),
        *,
        seconds: float | None = None,
        layers: tuple[str, ...] = LAYERS,
        structures: tuple[str, ...] = (),
        include: tuple[str, ...] = (),
        text: bool = False,
    ) -> None:
        seconds = seconds or (MAX_SECONDS_OF_TEXT if text else MAX_SECONDS)
        decoding = Decoding(layers=layers, memory_mb=MAX_MEMORY_MB, seconds=seconds)
        plain = [astuple(mask) for mask in masks]
        settings = {"masks": plain, "structures": structures, "include": include, "text": text}
        self._child = Child("salus.client.data.dicom.decoder_cleaning:Cleaning", settings, secret, decoding)

    def __enter__(self) -> "Isolated":
        self._child.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()

    def stop(self) -> None:
        """End the child; the next file starts another."""
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
        return _clean_of(answer, body)

    def clean_many(self, files: Sequence[bytes]) -> list[Clean | UnreadableImage]:
        """Return the de-identified object of each file, or the reason why there is none.

        Several files take one exchange with the child. If that fails as a whole, each gets its own, so that a file that kills the
        child, or takes too long, costs no other file.
        """
        if len(files) > 1:
            with contextlib.suppress(UnreadableImage):
                return self._together(files)
        return [self._alone(data) for data in files]

    def _together(self, files: Sequence[bytes]) -> list[Clean | UnreadableImage]:
        lengths = [len(data) for data in files]
        answer, body = self._child.ask(CLEAN_MANY, CleanedMany, json.dumps(lengths), b"".join(files))
        if len(answer.results) != len(files):
            self._child.stop()
            raise UnreadableImage("crashed", "the decoder answered for other files than it was given")
        found: list[Clean | UnreadableImage] = []
        start = 0
        for data, result in zip(files, answer.results, strict=True):
            if isinstance(result, Problem):
                problem = raised(result)
                if not isinstance(problem, UnreadableImage) or problem.reason == TOO_LARGE:
                    found.append(self._alone(data))  # the others may have taken the memory
                else:
                    found.append(problem)
            else:
                found.append(_clean_of(result, body[start : start + result.size]))
                start += result.size
        return found

    def _alone(self, data: bytes) -> Clean | UnreadableImage:
        try:
            return self.clean(data)
        except UnreadableImage as problem:
            return problem

    def annotations(self, data: bytes) -> tuple[Annotation, ...]:
        """Return what a SEG or SR object measures; errors as in `clean`."""
        _bounded(data)
        return self._child.ask(ANNOTATIONS, Numbers, data=data)[0].found

    def derive(self, data: bytes, pixels: npt.NDArray[np.float32], derivation: Derivation) -> bytes:
        """Return the file of an image that was derived from another one; errors as in `clean`.

        Args:
            pixels: ``[rows, columns]`` in the unit of the source's rescaled values.
        """
        _bounded(data)
        rows, columns = pixels.shape
        wanted = Deriving(derivation=derivation, source_bytes=len(data), rows=rows, columns=columns)
        both = data + np.ascontiguousarray(pixels, "<f4").tobytes()
        return bytes(self._child.ask(DERIVE, Derived, wanted.model_dump_json(), both)[1])

    def identify(self, data: bytes) -> Identity:
        """Return which study an object is of, and what it is; errors as in `clean`."""
        _bounded(data)
        return self._child.ask(IDENTIFY, Identity, data=data)[0]

    def header(self, data: bytes) -> Instance:
        """Return what a derived object repeats of an image's header; errors as in `clean`."""
        _bounded(data)
        return self._child.ask(HEADER, Header, data=data)[0].instance


def _clean_of(answer: Cleaned, body: memoryview) -> Clean:
    data = bytes(body)
    name = hashlib.sha256(data).hexdigest()
    counts: dict[str, int] = {str(rule): count for rule, count in answer.counts.items()}
    return Clean(
        data,
        name,
        answer.patient,
        answer.study,
        answer.vendor,
        answer.sealed_patient,
        counts,
        answer.annotation,
        Others(**answer.others),
        Blanked(answer.texts, answer.outside) if answer.searched else None,
    )


def _bounded(data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImage(TOO_LARGE, f"more than {MAX_FILE_BYTES} bytes")
