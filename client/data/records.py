"""What a source finds: images with their patient, study and label, and files that could not be read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.targets import Target
from salus.common.declaration import TargetKind

FloatArray = npt.NDArray[np.float32]
PATIENT_BY = "patient_by"
ISSUER = "issuer"  # of the patient identifier
ORDER = "order"  # rank of the image among all of the label file


@dataclass(frozen=True)
class ImageRecord:
    """One sample as the catalogue keeps it.

    Args:
        patient: the source's own patient key, or `picture_key` if it knows none; replaced by a pseudonym before it is stored.
        study: the source's own study key, replaced likewise.
        key: how the source finds the sample again, relative to its root: a path, several paths, or a row number.
        label: as written in the source; compared with the job's classes when a job runs; empty for an image that only has
            annotations of other kinds.
        split: ``train``, ``val`` or ``test`` if the source says so, otherwise empty.
        sha256: hash of the stored bytes, those of its annotations included, hex.
        pixel_sha256: hash of the decoded pixels, hex; equal for two files that differ in their headers only.
        pseudonymous: whether the patient key is already this site's pseudonym, from an import.
        info: facts for the readiness report and the declaration (modality, vendor, rows, channels, spacing ...), never
            identifiers; `PATIENT_BY` means that the patient has no identifier.
        targets: annotations by name; the default name is the annotation's kind.
    """

    patient: str
    study: str
    key: str
    label: str
    split: str = ""
    sha256: str = ""
    pixel_sha256: str = ""
    pseudonymous: bool = False
    group: str = ""  # a column to partition by in simulations, such as the hospital
    info: dict[str, str | float | int | list[float]] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the readiness report counts for one sample: no identifier, no path."""

    patient: str
    label: str
    pixel_sha256: str
    info: dict[str, Any]
    targets: Mapping[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Quarantined:
    """One file that cannot be used, with a stable reason for counting and a sentence for the operator."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Sample:
    """One sample as its source reads it now.

    Args:
        values: ``[channels, *spatial]`` from 0 to 1 for images, ``[columns]`` for a table row.
        columns: names of a table row's values.
        sha256: of what was read, to be compared with the catalogue.
        intensities: like `values` in the modality's own units before any window, where the source knows them.
        pixel_sha256: hash of the decoded pixels.
        affine: ``[4, 4]`` from a voxel's index (z, y, x) to millimetres in the patient, LPS; None where it is unknown.
        targets: annotations by name, see `targets`.
        kinds: of the annotations, by name.
        axes: where the axes of the stored file point, such as ``RAS``; empty where the file has no axes of its own.
        names: by target, the names of its class numbers 1, 2 ... or of its columns; absent where a number is its own name.
        padding: which of the values are padding and no measurement, shaped like them; None if none is.
    """

    values: FloatArray
    spacing_mm: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    sha256: str = ""
    intensities: FloatArray | None = None
    pixel_sha256: str = ""
    affine: npt.NDArray[np.float64] | None = None
    targets: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    kinds: Mapping[str, TargetKind] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    axes: str = ""
    padding: npt.NDArray[np.bool_] | None = None

    @property
    def measured(self) -> FloatArray:
        """The intensities, or the values where the source knows no other scale."""
        return self.values if self.intensities is None else self.intensities


def picture_key(digest: str) -> str:
    """Return the patient key of an image or row without a patient identifier: exact copies of it are one patient.

    A path would not do: copying a folder would multiply the privacy budget of everybody in it. A copy that was changed is not
    recognised, and two images of one person count as two patients; only an identifier does better.
    """
    return f"picture {digest}"


def array_digest(array: npt.NDArray[Any]) -> str:
    """Return SHA-256 of an array's type, shape and numbers, hex."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
