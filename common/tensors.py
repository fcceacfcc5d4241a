"""Tensors on the wire: a strict header, then raw little-endian bytes. Nothing is evaluated or unpickled.

    "SALT" | u32 version | u32 header length | header (canonical JSON) | raw bytes of each tensor, in the header's order

The header lists name, dtype and shape of each tensor. The total length is checked against the header before anything is
allocated, so a false header costs nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.canonical import canonical_json, u32
from salus.common.errors import WireError

MAGIC = b"SALT"
VERSION = 1
MAX_HEADER_BYTES = 4_000_000  # enough for thousands of layers
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
PREFIX_BYTES = 12

DTYPES: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float32", "float64", "float16", "int32", "int64", "uint32", "uint8", "bool")
}

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Length of the raw bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def encode_tensors(tensors: Mapping[str, Array]) -> bytes:
    """Return the wire form of named arrays, in their order.

    Raises:
        WireError: a dtype that is not in `DTYPES`.
    """
    specs = []
    chunks: list[bytes] = []
    for name, array in tensors.items():
        dtype = array.dtype.name
        if dtype not in DTYPES:
            raise WireError(
                f"Expected one of the dtypes {', '.join(DTYPES)}, got {dtype}.", remedy="Convert the tensor first."
            )
        specs.append([name, dtype, list(array.shape)])
        chunks.append(np.ascontiguousarray(array, dtype=DTYPES[dtype]).tobytes())
    header = canonical_json(specs)
    return b"".join([MAGIC, u32(VERSION), u32(len(header)), header, *chunks])


def decode_tensors(data: bytes, expected: Sequence[TensorSpec] | None = None) -> dict[str, Array]:
    """Return the arrays of `encode_tensors`, read-only views into `data`.

    Args:
        expected: if given, names, dtypes, shapes and order must be exactly these.

    Raises:
        WireError: the data do not parse or do not match; nothing is allocated before this check.
    """
    specs, offset = read_header(data)
    if expected is not None and tuple(specs) != tuple(expected):
        raise WireError(
            "Expected the tensors of the agreed model, got different ones.",
            remedy="Install the same version of Salus, and of the task, on both sides.",
        )
    arrays: dict[str, Array] = {}
    for spec in specs:
        array = np.frombuffer(data, dtype=DTYPES[spec.dtype], count=math.prod(spec.shape), offset=offset)
        arrays[spec.name] = array.reshape(spec.shape)
        offset += spec.nbytes
    return arrays


def read_header(data: bytes) -> tuple[list[TensorSpec], int]:
    """Return the specs and the offset of the first tensor, after checking that the length of `data` is exactly right."""
    if len(data) < PREFIX_BYTES or data[:4] != MAGIC:
        raise _bad("they do not begin with the tensor magic")
    if int.from_bytes(data[4:8], "big") != VERSION:
        raise _bad(f"their version is not {VERSION}")
    header_bytes = int.from_bytes(data[8:12], "big")
    start = PREFIX_BYTES + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start > len(data):
        raise _bad("their header is too long")
    try:
        raw = json.loads(data[PREFIX_BYTES:start])
    except (ValueError, RecursionError):
        raise _bad("their header is not JSON") from None
    if not isinstance(raw, list) or len(raw) > MAX_TENSORS:
        raise _bad("their header is not a list of tensors")
    specs = [_read_spec(entry) for entry in raw]
    if len({spec.name for spec in specs}) != len(specs):
        raise _bad("a name occurs twice")
    # Python integers do not overflow, so this sum is safe for any header.
    if start + sum(spec.nbytes for spec in specs) != len(data):
        raise _bad("their length does not match their header")
    return specs, start


def _read_spec(entry: object) -> TensorSpec:
    match entry:
        case [str() as name, str() as dtype, list() as shape] if (
            dtype in DTYPES and len(name) <= 512 and len(shape) <= MAX_DIMENSIONS and all(_is_size(n) for n in shape)
        ):
            return TensorSpec(name, dtype, tuple(shape))
        case _:
            raise _bad("a tensor's name, dtype or shape is not valid")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _bad(reason: str) -> WireError:
    return WireError(
        f"Expected encoded tensors, but {reason}.", remedy="The message is damaged or forged and is ignored."
    )
