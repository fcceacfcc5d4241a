"""The child that parses and decodes DICOM for `isolation`: what it answers, what it runs, and how it closes itself in.

It is started once, loads what it needs, and then lowers its limits to no open file, no process and no byte written, so that
from then on the kernel refuses it every new file and connection. That stops decoders that go wrong and most of what a taken-over
one could do; calls that need no descriptor (removing a file by its path, a signal) are not stopped: that would take seccomp or
another user.
"""

import codecs
import contextlib
import functools
import io
import resource
import warnings
from multiprocessing.connection import Connection
from typing import Annotated, Literal

import numpy as np
import pydicom
from pydantic import Field
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salus.client.data.annotations import MAX_FOUND, Annotation, annotations_of
from salus.client.data.deidentify import Clean, PixelMask, Rules, deidentify
from salus.client.data.dicom import MAX_PIXELS, Facts, decode, guarded
from salus.client.data.patient_map import PURPOSE
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.sealing import Sealer
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

MAX_MEMORY_BYTES = 2**30  # beyond what the child holds when it is ready
MAX_DEPTH = 20  # of nested sequences; real objects stay below ten
CLEAN, READ, ANNOTATIONS = b"clean", b"read", b"annotations"
UNNAMED = "the file"
Digits = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class Picture(Strict):
    """What the child says of a picture to be read: a reason, or facts and shape of the numbers that follow."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    facts: Facts | None = None
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_PIXELS)], ...], Field(max_length=4)] = ()


class Answer(Strict):
    """What the child says: a reason, or the facts of a clean object that follows."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    patient: Digits = ""
    study: Digits = ""
    vendor: Annotated[str, Field(pattern=r"^[A-Z]{0,20}$")] = ""
    sealed_patient: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]{0,5000}$")] = ""
    counts: dict[Literal["kept", "dropped", "private", "sequences"], Annotated[int, Field(ge=0, le=10**7)]] = Field(
        default_factory=dict
    )


class Numbers(Strict):
    """What the child says of a segmentation or report: a reason, or what was measured."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    found: Annotated[tuple[Annotation, ...], Field(max_length=MAX_FOUND)] = ()


def serve(pipe: Connection, secret: bytes, masks: tuple[PixelMask, ...], memory_bytes: int) -> None:
    """Run in the child."""
    load_decoders()
    close_in(memory_bytes)
    seal = Sealer(secret, PURPOSE).seal if secret else (lambda text: "")
    rules = Rules(lambda kind, value: pseudonym(secret, kind, value), secret, masks, seal)
    pipe.send_bytes(b"ready")
    while True:
        try:
            service, data = pipe.recv_bytes(), pipe.recv_bytes()
        except EOFError:
            return
        try:
            for part in guarded(UNNAMED, functools.partial(SERVICES[service], data, rules)):
                pipe.send_bytes(part)
        except UnreadableImage as problem:
            refusal = Answer(reason=problem.reason, detail=problem.detail)
            pipe.send_bytes(refusal.model_dump_json(exclude_defaults=True).encode())


def _cleaned(data: bytes, rules: Rules) -> tuple[bytes, bytes]:
    clean = _clean(data, rules)
    answer = Answer(
        patient=clean.patient,
        study=clean.study,
        vendor=clean.vendor,
        sealed_patient=clean.sealed_patient,
        counts=clean.counts,  # type: ignore[arg-type]  # checked here, as everywhere
    )
    return answer.model_dump_json().encode(), clean.data


def _decoded(data: bytes, rules: Rules) -> tuple[bytes, bytes]:
    if len(data) < 132:
        raise UnreadableImage("not-dicom", f"{UNNAMED} has fewer bytes than a header")
    facts, rescaled = decode(data, UNNAMED)
    answer = Picture(facts=facts, shape=rescaled.shape)
    return answer.model_dump_json().encode(), rescaled.tobytes()


def _annotated(data: bytes, rules: Rules) -> tuple[bytes, bytes]:
    dataset = _parsed(data)
    return Numbers(found=tuple(annotations_of(dataset))).model_dump_json().encode(), b""


SERVICES = {CLEAN: _cleaned, READ: _decoded, ANNOTATIONS: _annotated}


def _clean(data: bytes, rules: Rules) -> Clean:
    dataset = _parsed(data)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("no-pixels", "it holds no pixels")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    declared = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.get("SamplesPerPixel", 1))
    if not 0 < declared <= MAX_PIXELS:
        raise UnreadableImage("too-large", f"it declares {declared} pixels")
    if "PerFrameFunctionalGroupsSequence" in dataset and frames > 1:
        raise UnreadableImage("unsupported", "an enhanced object that places each frame on its own")
    return deidentify(dataset, rules)


def _parsed(data: bytes) -> pydicom.Dataset:
    """Return a file's elements, of one that is not deflated and not nested too deeply."""
    if len(data) < 132:
        raise UnreadableImage("not-dicom", "fewer bytes than a header")
    file = io.BytesIO(data)
    read_preamble(file, force=False)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UnreadableImage("unsupported", "deflated; a small file can expand without bound")
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_depth(dataset)
    return dataset


def _check_depth(dataset: pydicom.Dataset, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise UnreadableImage("nested-too-deep", "it nests sequences too deeply")
    for element in dataset:
        if element.VR == "SQ" and element.value:
            for item in element.value:
                _check_depth(item, depth + 1)


def load_decoders() -> None:
    """Import everything that a picture may need, because nothing can be opened later."""
    from PIL import Image
    from pydicom.charset import python_encoding
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian

    warnings.simplefilter("ignore")
    import nibabel.nicom.dicomwrappers  # noqa: F401 - for mosaics

    Image.init()  # Pillow decodes JPEG for pydicom, and loads its parts when they are first needed
    for encoding in {*python_encoding.values(), "ascii", "utf-8", "latin-1"}:
        codecs.lookup(encoding)  # hospitals write names in all of them, and each is a module of its own
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


def close_in(memory_bytes: int = MAX_MEMORY_BYTES) -> None:
    """Give up files, sockets, and memory beyond the limit; an unprivileged process cannot take them back."""
    size = _address_space_bytes()
    # None at all: a limit of those in use would let somebody who runs code here close one and open another.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
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
