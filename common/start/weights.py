"""A package's parameters as a start: a list of names, shapes and hashes, and the numbers themselves.

    u32 length of the list | the list (canonical JSON) | the tensors, see `common.tensors`

The hash of the list stands for all of the weights. So a site can check the few that a job takes without the others, such as
the last layer for other classes, which never travel.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salus.common.canonical import canonical_json, u32
from salus.common.errors import StartError, WireError
from salus.common.models.lora import merged
from salus.common.optional_torch import nn
from salus.common.tensors import MAX_DIMENSIONS, MAX_TENSORS, Array, TensorSpec, decode_tensors, encode_tensors
from salus.common.vectors import LARGEST_PARAMETER

MAX_LIST_BYTES = 16 * 2**20
MAX_BYTES = 2 * 2**30  # of all weights; half a billion parameters
MAX_NAME = 512
PREFIX = "sha256:"
OTHER = "Submit the job with the package that it names, or name another start."


@dataclass(frozen=True)
class Line:
    """One parameter of a start.

    Args:
        sha256: of its little-endian float32 numbers, hexadecimal.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def spec(self) -> TensorSpec:
        """Its form on the wire."""
        return TensorSpec(self.name, "float32", self.shape)


@dataclass(frozen=True)
class Weights:
    """A start: the list of all its parameters, and those whose numbers are here.

    Args:
        taken: names of those that a job takes, in its network's order; None if that is not known yet.
    """

    lines: tuple[Line, ...]
    tensors: Mapping[str, Array]
    taken: tuple[str, ...] | None = None

    @property
    def document(self) -> bytes:
        """The list, as it is hashed."""
        return canonical_json([[line.name, list(line.shape), line.sha256] for line in self.lines])

    @property
    def digest(self) -> str:
        """Hash of the list, as a job names it."""
        return PREFIX + hashlib.sha256(self.document).hexdigest()

    def line(self, name: str) -> Line | None:
        """Return the line of a parameter; None if the start has no such parameter."""
        return next((line for line in self.lines if line.name == name), None)

    def encode(self, names: Sequence[str] | None = None) -> bytes:
        """Return the wire form with the numbers of these parameters, or of all."""
        chosen = [line.name for line in self.lines] if names is None else list(names)
        document = self.document
        return u32(len(document)) + document + encode_tensors({name: self.tensors[name] for name in chosen})


def weights_of(network: nn.Module) -> Weights:
    """Return the weights of a trained network as a start, adapters added to the layers that have them.

    Raises:
        StartError: more than `MAX_BYTES`, or a number that no trained network has.
    """
    parameters = dict(merged(network).named_parameters())
    if sum(parameter.numel() for parameter in parameters.values()) * 4 > MAX_BYTES:
        raise StartError(
            f"The package has more parameters than a start may have ({MAX_BYTES // 4:,}).",
            remedy="Start from a smaller model.",
        )
    tensors: dict[str, Array] = {
        name: np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype="<f4")
        for name, parameter in parameters.items()
    }
    for name, values in tensors.items():
        _check_numbers(name, values)
    return Weights(lines_of(tensors), tensors)


def lines_of(tensors: Mapping[str, Array]) -> tuple[Line, ...]:
    """Return the list of these parameters."""
    return tuple(Line(name, values.shape, hash_of(values)) for name, values in tensors.items())


def decode(data: bytes, digest: str, wanted: Sequence[TensorSpec] | None = None) -> Weights:
    """Return the weights from their wire form.

    Args:
        digest: which the job names.
        wanted: the parameters whose numbers must be there, and no others; None for all of the list.

    Raises:
        StartError: other weights, or numbers that no trained network has. Nothing is allocated before the list is checked.
    """
    length = int.from_bytes(data[:4], "big") if len(data) >= 4 else 0
    document = data[4 : 4 + length]
    if not 0 < length <= MAX_LIST_BYTES or len(document) != length:
        raise StartError("Expected the weights of a start, got something else.", remedy=OTHER)
    found = read_list(document, digest)
    try:
        tensors = decode_tensors(data[4 + length :], [line.spec for line in found] if wanted is None else wanted)
    except WireError:
        raise StartError(
            "The weights that arrived are not those that the job takes of its start.", remedy=OTHER
        ) from None
    known = {line.name: line for line in found}
    for name, values in tensors.items():
        if name not in known or known[name].shape != values.shape or hash_of(values) != known[name].sha256:
            raise StartError(
                f"The start's parameter {name[:80]!r} is not the one whose hash the job names.", remedy=OTHER
            )
        _check_numbers(name, values)
    return Weights(found, tensors)


def read_list(document: bytes, digest: str) -> tuple[Line, ...]:
    """Return the lines of a start's list; raises StartError if its hash is not `digest`, or it is no such list."""
    if PREFIX + hashlib.sha256(document).hexdigest() != digest:
        raise StartError(
            f"The weights have the hash {PREFIX}{hashlib.sha256(document).hexdigest()[:16]}..., the job names "
            f"{digest[:23]}....",
            remedy=OTHER,
        )
    try:
        raw = json.loads(document)
    except (ValueError, RecursionError):
        raise _no_list() from None
    if not isinstance(raw, list) or not 0 < len(raw) <= MAX_TENSORS:
        raise _no_list()
    lines = tuple(_line(entry) for entry in raw)
    if len({line.name for line in lines}) != len(lines):
        raise _no_list()
    if sum(math.prod(line.shape) for line in lines) * 4 > MAX_BYTES:
        raise StartError(
            f"A start may have at most {MAX_BYTES // 4:,} parameters.", remedy="Start from a smaller model."
        )
    return lines


def _line(entry: object) -> Line:
    match entry:
        case [str() as name, list() as shape, str() as sha256] if (
            0 < len(name) <= MAX_NAME
            and len(shape) <= MAX_DIMENSIONS
            and all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape)
            and re.fullmatch("[0-9a-f]{64}", sha256)
        ):
            return Line(name, tuple(shape), sha256)
        case _:
            raise _no_list()


def _no_list() -> StartError:
    return StartError("Expected a list of parameters with shapes and hashes.", remedy=OTHER)


def hash_of(values: Array) -> str:
    """Return SHA-256 of a parameter's numbers, as in a start's list."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()


def _check_numbers(name: str, values: Array) -> None:
    if values.size and not float(np.abs(values).max()) <= LARGEST_PARAMETER:  # also for NaN
        raise StartError(
            f"The start's parameter {name[:80]!r} has numbers that are not finite, or beyond {LARGEST_PARAMETER:g}.",
            remedy="Its training has diverged; start from another package.",
        )
