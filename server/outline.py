"""What a coordinator needs of a job's network: names, shapes, and the numbers with which the job begins.

With an outline the coordinator builds no network and needs no torch. It is made where torch is installed (`salus job outline`),
and kept beside the job, by the job's hash.

    u32 length of the head | the head (canonical JSON) | the tensors, see `common.tensors`
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from salus.common.canonical import canonical_json, u32
from salus.common.errors import JobError, WireError
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.optional_torch import TORCH
from salus.common.start.weights import MAX_BYTES, Weights, lines_of, read_list
from salus.common.strict import Strict, validate
from salus.common.tensors import Array, TensorSpec, decode_tensors, encode_tensors, read_header
from salus.common.vectors import LARGEST_PARAMETER, FloatVector, Layout

OUTLINES = "outlines"  # the folder in a coordinator's own
MAX_HEAD_BYTES = 16 * 2**20
AGAIN = "Make it again, with the same job file: salus job outline JOB --output FILE"


class Head(Strict):
    """The head of an outline's file.

    Args:
        job: hash of the job, hexadecimal.
        trained: names of the trained parameters, in the network's order.
        taken: names of the parameters that the job takes from its start.
        start: the list of all the start's parameters, see `common.start.weights`; empty for a job without a start.
    """

    format: Literal[1] = 1
    job: str
    trained: tuple[str, ...]
    taken: tuple[str, ...] = ()
    start: str = ""


@dataclass(frozen=True)
class Outline:
    """A job's network as the coordinator needs it.

    Args:
        layout: of the trained parameters.
        first: the trained parameters with which the job begins, in the layout.
        frozen: the other parameters, by name; only with a start, of which model files hold everything.
        start: the part of the start that sites take; None for a job without one.
    """

    layout: Layout
    first: FloatVector
    frozen: Mapping[str, Array]
    start: Weights | None = None

    def encode(self, job: Job) -> bytes:
        """Return the form in a file."""
        start = self.start
        head = Head(
            job=job.digest().hex(),
            trained=tuple(spec.name for spec in self.layout.specs),
            taken=start.taken or () if start is not None else (),
            start=start.document.decode() if start is not None else "",
        )
        data = canonical_json(head.model_dump(mode="json"))
        return u32(len(data)) + data + encode_tensors({**self.layout.unflatten(self.first), **self.frozen})


def outline_of(job: Job, start: Weights | None) -> Outline:
    """Return the outline of a training job; needs torch.

    Args:
        start: the weights with which the job starts; None for a job without a start.

    Raises:
        NoStart, StartError, JobError: as `first_network`.
        ConfigError: torch is not installed.
    """
    from salus.common.models import build_model
    from salus.common.start.applying import first_network, taken_by
    from salus.common.vectors import frozen_of, layout_of, read_parameters

    network = first_network(job, start)
    layout = layout_of(network)
    taken = None
    if start is not None and job.start is not None:
        names = tuple(taken_by(job, build_model(job.task, job.job.seed), start.lines))
        taken = Weights(start.lines, {name: start.tensors[name] for name in names}, names)
    # A model file of a job with a start is complete: what is frozen follows from no seed.
    frozen = {} if job.start is None else frozen_of(network)
    return Outline(layout, read_parameters(network, layout), frozen, taken)


def read_outline(data: bytes, job: Job) -> Outline:
    """Return the outline of a job from its file; nothing is allocated before its lengths and names are checked.

    Raises:
        JobError: no outline, of another job, or with numbers that no network begins with.
    """
    length = int.from_bytes(data[:4], "big") if len(data) >= 4 else 0
    if not 0 < length <= min(MAX_HEAD_BYTES, len(data) - 4) or len(data) > 2 * MAX_BYTES:
        raise JobError("Expected the outline of a job, got another file.", remedy=AGAIN)
    try:
        values = json.loads(data[4 : 4 + length])
    except (ValueError, RecursionError):
        raise JobError("Expected the outline of a job, got another file.", remedy=AGAIN) from None
    head = validate(Head, values, error=JobError, what="outline", remedy=AGAIN)
    if head.job != job.digest().hex():
        raise JobError("The outline belongs to another job, or to another state of this job file.", remedy=AGAIN)
    try:
        tensors = decode_tensors(data[4 + length :])
    except WireError as problem:
        raise JobError(problem.problem, remedy=AGAIN) from None
    specs = {spec.name: spec for spec in read_header(data[4 + length :])[0]}
    _check_names(head, specs)
    _check_numbers(tensors)
    layout = Layout(tuple(specs[name] for name in head.trained))
    frozen = {name: values for name, values in tensors.items() if name not in set(head.trained)}
    start = None
    if job.start is not None:
        lines = read_list(head.start.encode(), job.start.weights)
        start = Weights(lines, {name: tensors[name] for name in head.taken}, head.taken)
        known = {line.name: line for line in lines}
        if lines_of(start.tensors) != tuple(known.get(name) for name in head.taken):
            raise JobError("The outline's parameters are not those of the job's start.", remedy=AGAIN)
    return Outline(layout, layout.flatten(tensors), frozen, start)


def _check_names(head: Head, specs: Mapping[str, TensorSpec]) -> None:
    trained = set(head.trained)
    if (
        not trained
        or len(trained) != len(head.trained)
        or len(set(head.taken)) != len(head.taken)
        or not {*trained, *head.taken} <= set(specs)
        or (not head.start and trained != set(specs))
        or any(spec.dtype != "float32" for spec in specs.values())
    ):
        raise JobError("The outline's names are not those of its parameters.", remedy=AGAIN)


def _check_numbers(tensors: Mapping[str, Array]) -> None:
    for name, values in tensors.items():
        if values.size and not float(np.abs(values).max()) <= LARGEST_PARAMETER:  # also for NaN
            raise JobError(
                f"The outline's parameter {name[:80]!r} has numbers that are not finite, or beyond {LARGEST_PARAMETER:g}.",
                remedy=AGAIN,
            )


def read_file(path: Path) -> bytes:
    """Return the bytes of an outline's file. Raises JobError if it cannot be read, or is larger than an outline can be."""
    try:
        if path.stat().st_size > 2 * MAX_BYTES:
            raise JobError(f"The file {path.name!r} is larger than an outline can be.", remedy="Check the path.")
        return path.read_bytes()
    except OSError as problem:
        raise JobError(
            f"The outline {path.name!r} cannot be read: {problem.strerror}.", remedy="Check the path."
        ) from None


class Outlines:
    """The outlines of a coordinator's jobs, by the hash of the job.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, job: Job, data: bytes) -> None:
        """Keep the outline of a job after checking it; on disk when this returns. Raises JobError, StorageError."""
        read_outline(data, job)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path(job), data)

    def of(self, job: Job) -> Outline | None:
        """Return the outline of a job; None if there is none, and the network must be built.

        Raises:
            JobError: it is damaged; or there is none, the job trains a network, and torch is not installed.
        """
        try:
            data = self._path(job).read_bytes()
        except FileNotFoundError:
            if not TORCH and job.statistics is None:
                raise JobError(
                    "This coordinator has no torch, so it needs the outline of the job's network.",
                    remedy="Run `salus job outline JOB --output FILE` where Salus is installed in full, and submit the job with "
                    "--outline FILE.",
                ) from None
            return None
        return read_outline(data, job)

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.digest().hex()}.outline"
