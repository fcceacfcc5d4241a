"""DICOM parsing and decoding in a child process that can open nothing new: no file, no socket; with limits of memory and time.

A decoder is C code fed with what a stranger made. The child (`decoder_process`) gets bytes over a pipe and answers with a
de-identified object, a picture or a reason. A child that dies or takes too long costs one file.
"""

import contextlib
import hashlib
import math
import multiprocessing
import threading
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TypeVar

import numpy as np

from salus.client.data.annotations import Annotation
from salus.client.data.decoder_process import (
    ANNOTATIONS,
    CLEAN,
    MAX_MEMORY_BYTES,
    READ,
    UNNAMED,
    Answer,
    Numbers,
    Picture,
    serve,
)
from salus.client.data.deidentify import Clean, PixelMask
from salus.client.data.dicom import DicomImage, picture
from salus.common.errors import UnreadableImage

MAX_FILE_BYTES = 2**29
MAX_SECONDS = 5.0
START_SECONDS = 60.0
MAX_ANSWER_BYTES, MAX_CLEAN_BYTES = 2_000_000, 2**31
A = TypeVar("A", Answer, Picture, Numbers)


class Isolated:
    """A child process that de-identifies or reads one file after the other.

    Args:
        secret: the site's secret for pseudonyms; not needed for reading.
        seconds, memory_bytes: for one file.

    Guarantees: no file makes the caller crash, hang for longer than the limit, or write anywhere.
    """

    def __init__(
        self,
        secret: bytes = b"",
        masks: tuple[PixelMask, ...] = (),
        *,
        seconds: float = MAX_SECONDS,
        memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self._secret, self._masks, self._seconds, self._memory_bytes = secret, masks, seconds, memory_bytes
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._late = False

    def __enter__(self) -> "Isolated":
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def process_id(self) -> int:
        """The child's process id, 0 while there is none; for measuring."""
        return (self._process.pid or 0) if self._process is not None else 0

    def clean(self, data: bytes) -> Clean:
        """Return the de-identified object of a file's bytes.

        Raises:
            UnreadableImage: with its reason; ``too-slow`` or ``crashed`` where the child had to be ended or died.
        """
        answer, cleaned = self._asked(CLEAN, data, Answer)
        if answer.reason:
            raise UnreadableImage(answer.reason, answer.detail)
        name = hashlib.sha256(cleaned).hexdigest()
        counts: dict[str, int] = {str(rule): count for rule, count in answer.counts.items()}
        return Clean(cleaned, name, answer.patient, answer.study, answer.vendor, answer.sealed_patient, counts)

    def read(self, data: bytes, name: str) -> DicomImage:
        """Return the decoded picture of a file's bytes; errors as in `clean`.

        Args:
            name: for messages; the child does not get it.
        """
        answer, numbers = self._asked(READ, data, Picture)
        if answer.reason or answer.facts is None:
            raise UnreadableImage(answer.reason or "crashed", answer.detail.replace(UNNAMED, name))
        if len(numbers) != 4 * math.prod(answer.shape) or len(answer.shape) not in (3, 4):
            raise UnreadableImage("crashed", "the decoder said one size and sent another")
        rescaled = np.frombuffer(numbers, dtype=np.float32).reshape(answer.shape)
        return picture(answer.facts, rescaled, hashlib.sha256(data).hexdigest(), name)

    def annotations(self, data: bytes) -> tuple[Annotation, ...]:
        """Return what a SEG or SR object measures; errors as in `clean`."""
        answer, _ = self._asked(ANNOTATIONS, data, Numbers)
        if answer.reason:
            raise UnreadableImage(answer.reason, answer.detail)
        return answer.found

    def _asked(self, service: bytes, data: bytes, kind: type[A]) -> tuple[A, bytes]:
        """Send a file and return the answer and what follows it; a child that hangs or dies costs this file only."""
        if len(data) > MAX_FILE_BYTES:
            raise UnreadableImage("too-large", f"more than {MAX_FILE_BYTES} bytes")
        if self._pipe is None:
            self._start()
        pipe = self._pipe
        assert pipe is not None  # Safe because `_start` made it.
        watch = self._watch(self._seconds)
        try:
            pipe.send_bytes(service)
            pipe.send_bytes(data)
            # Bytes and JSON, never pickles: a decoder that was taken over must not reach this process.
            answer = kind.model_validate_json(pipe.recv_bytes(MAX_ANSWER_BYTES))
            rest = pipe.recv_bytes(MAX_CLEAN_BYTES) if not answer.reason else b""
        except (EOFError, OSError, ValueError, MemoryError):
            self._stop()
            if self._late:
                raise UnreadableImage("too-slow", f"decoding took longer than {self._seconds:g} s") from None
            raise UnreadableImage("crashed", "the decoder died or ran out of memory") from None
        except BaseException:
            self._stop()  # else the next file would get the answer to this one
            raise
        finally:
            watch.cancel()
        if self._late:  # it was in time, and the child was ended all the same
            self._stop()
        return answer, rest

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=serve, args=(theirs, self._secret, self._masks, self._memory_bytes), daemon=True
        )
        self._process.start()
        theirs.close()
        watch = self._watch(START_SECONDS)
        with contextlib.suppress(EOFError, OSError):
            self._pipe.recv_bytes(MAX_ANSWER_BYTES)  # ready; a child that cannot start shows at the first file
        watch.cancel()

    def _watch(self, seconds: float) -> threading.Timer:
        """Kill the child after so long: then every read and write of ours ends, wherever the child got stuck."""
        process = self._process
        assert process is not None  # Safe because only a started child is watched.
        self._late = False

        def end() -> None:
            self._late = True
            process.kill()

        watch = threading.Timer(seconds, end)
        watch.daemon = True
        watch.start()
        return watch

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
