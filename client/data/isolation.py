"""DICOM parsing and decoding in a child process that can open nothing: no file, no socket, with limits of memory and time.

A decoder is C code fed with what a stranger made. The child gets bytes over a pipe and answers with a de-identified object or a
reason. It is started once, loads what it needs, and then lowers its own limit of open files to those it has, so that from
then on the kernel refuses it every file and every connection. A child that dies or takes too long costs one file.
"""

import contextlib
import functools
import hashlib
import io
import math
import multiprocessing
import os
import resource
import threading
import warnings
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Annotated, TypeVar

import numpy as np
import pydicom
from pydantic import Field
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salus.client.data.deidentify import Clean, PixelMask, Rules, deidentify
from salus.client.data.dicom import MAX_PIXELS, DicomImage, Facts, decode, guarded, picture
from salus.client.data.pseudonyms import pseudonym
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

MAX_FILE_BYTES = 2**29
MAX_MEMORY_BYTES = 2**30  # beyond what the child holds when it is ready
MAX_SECONDS = 5.0
START_SECONDS = 60.0
MAX_DEPTH = 20  # of nested sequences; real objects stay below ten
MAX_ANSWER_BYTES, MAX_CLEAN_BYTES = 10_000, 2**31
CLEAN, READ = b"clean", b"read"
UNNAMED = "the file"
Digits = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class _Picture(Strict):
    """What the child says of a picture to be read: a reason, or facts and shape of the numbers that follow."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    facts: Facts | None = None
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_PIXELS)], ...], Field(max_length=4)] = ()


class _Answer(Strict):
    """What the child says: a reason, or the facts of a clean object that follows."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    patient: Digits = ""
    study: Digits = ""
    vendor: Annotated[str, Field(pattern=r"^[A-Z]{0,20}$")] = ""
    counts: dict[str, int] = Field(default_factory=dict)


A = TypeVar("A", _Answer, _Picture)


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

    def clean(self, data: bytes) -> Clean:
        """Return the de-identified object of a file's bytes.

        Raises:
            UnreadableImage: with its reason; ``too-slow`` or ``crashed`` where the child had to be ended or died.
        """
        answer, cleaned = self._asked(CLEAN, data, _Answer)
        if answer.reason:
            raise UnreadableImage(answer.reason, answer.detail)
        name = hashlib.sha256(cleaned).hexdigest()
        return Clean(cleaned, name, answer.patient, answer.study, answer.vendor, answer.counts)

    def read(self, data: bytes, name: str) -> DicomImage:
        """Return the decoded picture of a file's bytes; errors as in `clean`.

        Args:
            name: for messages; the child does not get it.
        """
        answer, numbers = self._asked(READ, data, _Picture)
        if answer.reason or answer.facts is None:
            raise UnreadableImage(answer.reason or "crashed", answer.detail.replace(UNNAMED, name))
        if len(numbers) != 4 * math.prod(answer.shape) or len(answer.shape) not in (3, 4):
            raise UnreadableImage("crashed", "the decoder said one size and sent another")
        rescaled = np.frombuffer(numbers, dtype=np.float32).reshape(answer.shape)
        return picture(answer.facts, rescaled, hashlib.sha256(data).hexdigest(), name)

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
        except (EOFError, OSError, ValueError):
            self._stop()
            if self._late:
                raise UnreadableImage("too-slow", f"decoding took longer than {self._seconds:g} s") from None
            raise UnreadableImage("crashed", "the decoder died or ran out of memory") from None
        finally:
            watch.cancel()
        return answer, rest

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_serve, args=(theirs, self._secret, self._masks, self._memory_bytes), daemon=True
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


def _serve(pipe: Connection, secret: bytes, masks: tuple[PixelMask, ...], memory_bytes: int) -> None:
    """Run in the child."""
    _load_decoders()
    _close_in(memory_bytes)
    rules = Rules(lambda kind, value: pseudonym(secret, kind, value), secret, masks)
    pipe.send_bytes(b"ready")
    while True:
        try:
            service, data = pipe.recv_bytes(), pipe.recv_bytes()
        except EOFError:
            return
        try:
            make = _cleaned if service == CLEAN else _decoded
            for part in guarded(UNNAMED, functools.partial(make, data, rules)):
                pipe.send_bytes(part)
        except UnreadableImage as problem:
            refusal = _Answer(reason=problem.reason, detail=problem.detail)
            pipe.send_bytes(refusal.model_dump_json(exclude_defaults=True).encode())


def _cleaned(data: bytes, rules: Rules) -> tuple[bytes, bytes]:
    clean = _clean(data, rules)
    answer = _Answer(patient=clean.patient, study=clean.study, vendor=clean.vendor, counts=clean.counts)
    return answer.model_dump_json().encode(), clean.data


def _decoded(data: bytes, rules: Rules) -> tuple[bytes, bytes]:
    if len(data) < 132:
        raise UnreadableImage("not-dicom", f"{UNNAMED} has fewer bytes than a header")
    facts, rescaled = decode(data, UNNAMED)
    answer = _Picture(facts=facts, shape=rescaled.shape)
    return answer.model_dump_json().encode(), rescaled.tobytes()


def _clean(data: bytes, rules: Rules) -> Clean:
    if len(data) < 132:
        raise UnreadableImage("not-dicom", "fewer bytes than a header")
    file = io.BytesIO(data)
    read_preamble(file, force=False)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UnreadableImage("unsupported", "deflated; a small file can expand without bound")
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_depth(dataset)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("no-pixels", "it holds no pixels")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    declared = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.get("SamplesPerPixel", 1))
    if not 0 < declared <= MAX_PIXELS:
        raise UnreadableImage("too-large", f"it declares {declared} pixels")
    if "PerFrameFunctionalGroupsSequence" in dataset and frames > 1:
        raise UnreadableImage("unsupported", "an enhanced object that places each frame on its own")
    return deidentify(dataset, rules)


def _check_depth(dataset: pydicom.Dataset, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise UnreadableImage("nested-too-deep", "it nests sequences too deeply")
    for element in dataset:
        if element.VR == "SQ" and element.value:
            for item in element.value:
                _check_depth(item, depth + 1)


def _load_decoders() -> None:
    """Import everything that a picture may need, because nothing can be opened later."""
    import nibabel.nicom.dicomwrappers  # noqa: F401 - for mosaics
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian

    warnings.simplefilter("ignore")
    decoders: list[bool] = []
    for syntax in AllTransferSyntaxes:
        with contextlib.suppress(NotImplementedError, ValueError):
            decoders.append(get_decoder(UID(syntax)).is_available)
    trial = Dataset()
    trial.file_meta = FileMetaDataset()
    trial.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    trial.Rows = trial.Columns = 2
    trial.SamplesPerPixel, trial.PhotometricInterpretation, trial.PatientID = 1, "MONOCHROME2", "warm"
    trial.BitsAllocated, trial.BitsStored, trial.HighBit, trial.PixelRepresentation = 8, 8, 7, 0
    trial.PixelData = np.zeros(4, np.uint8).tobytes()
    deidentify(trial, Rules(lambda kind, value: value, bytes(16)))


def _close_in(memory_bytes: int = MAX_MEMORY_BYTES) -> None:
    """Give up files, sockets, and memory beyond the limit; an unprivileged process cannot take them back."""
    size = _address_space_bytes()
    used = [int(name) for name in os.listdir("/proc/self/fd")] if os.path.isdir("/proc/self/fd") else list(range(16))
    open_now = max(fd for fd in used if _is_open(fd)) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now, open_now))
    for fd in range(open_now):
        if not _is_open(fd):
            os.dup2(2, fd)  # fill the gaps, or the next open would find one
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's data
    limit = size + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space_bytes() -> int:
    """Return what this process has mapped now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 * 2**30  # no such file on other systems than Linux


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
