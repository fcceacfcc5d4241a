"""The messages between a site's process and its decoding child, as strict models: the child is not trusted."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from salus.client.data.targets import MAX_NAMES
from salus.common.declaration import MAX_TARGETS, TargetKind
from salus.common.strict import Strict

# Kinds of frames: the parent sends the first three, the child the others.
SETUP, OPERATION, DATA = b"s", b"o", b"d"
READY, ANSWER, PROBLEM, QUESTION = b"r", b"a", b"p", b"q"

MAX_NAME = 8192  # characters of a path in JSON
MAX_FILE_BYTES = 2**29  # of one file that is read whole
MAX_VALUES = 2**28  # numbers in one sample: a CT of 1000 slices of 512 x 512
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Name = Annotated[str, Field(max_length=MAX_NAME)]
TargetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sides = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_VALUES)], ...], Field(min_length=1, max_length=4)]


class Setup(Strict):
    """The setup of a child; the frame's body is a secret, or empty.

    Args:
        role: ``module:class`` of what it serves.
        settings: for the role, as JSON.
        layers: of the sandbox; empty if the operator accepts decoding without one.
    """

    role: str
    settings: str
    memory_bytes: int
    layers: tuple[str, ...]


class Ready(Strict):
    """The child is sandboxed by these layers, could not be sandboxed (`problem`), or could not load its role (`failed`)."""

    layers: Annotated[tuple[Annotated[str, Field(max_length=30)], ...], Field(max_length=10)] = ()
    problem: Annotated[str, Field(max_length=300)] = ""
    failed: Annotated[str, Field(pattern=r"^[A-Za-z_]{0,60}$")] = ""


class Operation(Strict):
    """One operation to do; its input follows as the body."""

    name: str
    argument: str = ""


class Question(Strict):
    """What the child needs to know of the files that it may read: a page of their names, a size, or bytes."""

    what: Literal["names", "size", "bytes"]
    name: Name = ""
    offset: Annotated[int, Field(ge=0, le=2**50)] = 0
    length: Annotated[int, Field(ge=0, le=2**40)] = 0


class Problem(Strict):
    """Why there is no answer: one file that cannot be read (`reason`), or data that cannot be used (`remedy`)."""

    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=1000)] = ""
    remedy: Annotated[str, Field(max_length=1000)] = ""


class Answer(Strict):
    """An answer that is followed by `body_bytes` bytes."""

    @property
    def body_bytes(self) -> int:
        """Length of the body that this header announces."""
        return 0


class Done(Answer):
    """Nothing but the end of an operation."""


class Names(Answer):
    """Some of the requested names."""

    names: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()


class FoundTarget(Strict):
    """One annotation of a sample, see `targets.Target`."""

    kind: TargetKind
    amounts: Annotated[dict[Name, Annotated[float, Field(ge=0)]], Field(max_length=MAX_NAMES)]
    outside: Annotated[float, Field(ge=0, le=1)] = 0.0


class Found(Strict):
    """One sample or one unusable file of a scan, see `records`."""

    key: Annotated[str, Field(max_length=10 * 2**20)]  # of a series: the names of all its files
    reason: Annotated[str, Field(pattern=r"^[a-z-]{0,30}$")] = ""
    detail: Annotated[str, Field(max_length=1000)] = ""
    patient: Name = ""
    study: Name = ""
    label: Name = ""
    split: Annotated[str, Field(max_length=100)] = ""
    sha256: Sha256 = ""
    pixel_sha256: Sha256 = ""
    pseudonymous: bool = False
    group: Name = ""
    info: Annotated[
        dict[
            Annotated[str, Field(max_length=50)],
            Annotated[str, Field(max_length=200)] | float | int | Annotated[list[float], Field(max_length=10)],
        ],
        Field(max_length=50),
    ] = Field(default_factory=dict)
    targets: Annotated[dict[TargetName, FoundTarget], Field(max_length=MAX_TARGETS)] = Field(default_factory=dict)


class Page(Answer):
    """A part of what a scan found in some files.

    Args:
        group: instead of results, the name under which this file's samples are to be examined together.
        more: whether another page follows.
    """

    group: Name = ""
    found: Annotated[tuple[Found, ...], Field(max_length=10_000)] = ()
    more: bool = False


class LoadedTarget(Strict):
    """One annotation's form; its values follow the sample's."""

    name: TargetName
    kind: TargetKind
    dtype: Literal["uint8", "int16", "float32"]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_VALUES)], ...], Field(min_length=1, max_length=4)]
    names: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMES)] = ()

    @property
    def body_bytes(self) -> int:
        """Length of its values."""
        return min(math.prod(self.shape), MAX_VALUES) * np.dtype(self.dtype).itemsize


class Loaded(Answer):
    """A sample's facts; its values follow as float32, then its intensities if it has a shape for them, then its padding, then
    its annotations.

    Args:
        padding: whether some of its values are padding; then one bit for each value follows, the first one highest.
        affine: rows of the matrix from a voxel's index to millimetres, or none.
        axes: see `records.Sample`.
    """

    shape: Sides
    spacing_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=3)] = ()
    columns: Annotated[tuple[Name, ...], Field(max_length=100_000)] = ()
    sha256: Sha256 = ""
    pixel_sha256: Sha256 = ""
    measured: Sides | None = None
    affine: Annotated[tuple[float, ...], Field(min_length=16, max_length=16)] | None = None
    axes: Annotated[str, Field(pattern=r"^([LRAPIS]{3})?$")] = ""
    padding: bool = False
    targets: Annotated[tuple[LoadedTarget, ...], Field(max_length=MAX_TARGETS)] = ()

    @property
    def body_bytes(self) -> int:
        return self.padding_end + sum(target.body_bytes for target in self.targets)

    @property
    def count(self) -> int:
        """How many values follow, at most `MAX_VALUES`."""
        return min(math.prod(self.shape), MAX_VALUES)

    @property
    def measured_count(self) -> int:
        """How many intensities follow."""
        return 0 if self.measured is None else min(math.prod(self.measured), MAX_VALUES)

    @property
    def padding_place(self) -> int:
        """Where the padding begins in the body."""
        return 4 * (self.count + self.measured_count)

    @property
    def padding_end(self) -> int:
        """Where the padding ends in the body, whose last byte may be filled up."""
        return self.padding_place + (-(-self.count // 8) if self.padding else 0)

    @model_validator(mode="after")
    def _padding_of_an_image(self) -> Self:
        if self.padding and (self.columns or self.measured not in (None, self.shape)):
            raise ValueError("expected padding of an image whose intensities have the shape of its values")
        return self

    def target_places(self) -> Iterator[tuple[LoadedTarget, int]]:
        """Yield each annotation with the place of its first byte in the body."""
        place = self.padding_end
        for target in self.targets:
            yield target, place
            place += target.body_bytes
