"""A site's contribution to a round: its update is clipped and weighted, and everything is sent in one vector.

The vector is ``[ w * clip(update) ... , w, statistics ... ]``. Statistics are already divided by a public bound, so every
entry after the update lies in 0 .. 1, and a site's sample counts are sent only inside the vector.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

import numpy as np
import numpy.typing as npt

from salus.common.errors import ProtectionError

Float64Vector = npt.NDArray[np.float64]
Kind = Literal["train", "evaluate", "measure"]  # of a request for a vector


class DataKind(IntFlag):
    """Kinds of a site's own data; the values are part of the protocol."""

    NONE = 0
    TRAINING = 1
    VALIDATION = 2
    MEASURED = 4
    ALL = 7

    @classmethod
    def kinds(cls) -> "tuple[DataKind, ...]":
        """Return the single kinds in this value."""
        return cls.TRAINING, cls.VALIDATION, cls.MEASURED

    @property
    def words(self) -> str:
        """The kind as text for messages."""
        names = {DataKind.TRAINING: "training data", DataKind.VALIDATION: "validation data"}
        return names.get(self, "data for statistics")


@dataclass(frozen=True)
class Contribution:
    """What one site contributes to one round.

    Args:
        update: local minus global parameters, float32 or float64, length d.
        weight: min(patients, public bound) / public bound, in (0, 1]; 0 only with a zero update (an evaluation).
        statistics: additive statistics over a public bound, each in 0 .. 1, length m.
        data: the kinds of this site's data that the numbers were computed from; NONE for a vector of zeros. Used only in jobs
            without noise.
    """

    update: npt.NDArray[np.float32] | Float64Vector
    weight: float
    statistics: Float64Vector
    data: DataKind = DataKind.NONE


@dataclass(frozen=True)
class Shape:
    """The public sizes and bounds of a contribution, the same at every site.

    Args:
        parameters: d.
        statistics: m.
        clip_norm_l2: bound on the Euclidean norm of the update.
        kind: the request that the vector answers: ``train``, ``evaluate`` or ``measure``.
    """

    parameters: int
    statistics: int
    clip_norm_l2: float
    kind: Kind = "train"

    @property
    def length(self) -> int:
        """Length of the whole vector, d + 1 + m."""
        return self.parameters + 1 + self.statistics


def to_vector(contribution: Contribution, shape: Shape) -> Float64Vector:
    """Return the vector to be protected.

    Guarantees:
        - the update part has Euclidean norm at most ``weight * clip_norm_l2`` (up to float64 rounding);
        - every other entry lies in 0 .. 1.

    Edge cases: a zero update stays zero; an update of exactly the clip norm is unchanged.

    Raises:
        ProtectionError: a wrong size, NaN or infinity, or a weight or statistic outside 0 .. 1.
    """
    factor, tail = scale_of(contribution, shape)
    return np.concatenate([np.asarray(contribution.update, dtype=np.float64) * factor, tail])


def scale_of(contribution: Contribution, shape: Shape) -> tuple[float, Float64Vector]:
    """Return the factor of the update in `to_vector` (clip times weight) and the entries after the update; same errors."""
    update = contribution.update
    tail = np.concatenate([[contribution.weight], contribution.statistics])
    if update.shape != (shape.parameters,) or tail.shape != (1 + shape.statistics,):
        raise ProtectionError(
            f"Expected {shape.parameters} parameters and {shape.statistics} statistics, "
            f"got {update.size} and {tail.size - 1}.",
            remedy="Install the same version of Salus as the coordinator.",
        )
    norm = float(np.sqrt(np.einsum("i,i->", update, update, dtype=np.float64)))  # no copy in double precision
    if not np.isfinite(norm) or not np.isfinite(tail).all():
        raise ProtectionError(
            "Expected finite numbers in the update, got NaN or infinity.",
            remedy="Local training diverged; lower the learning rate.",
        )
    if (tail < 0).any() or (tail > 1).any():
        raise ProtectionError("Expected weight and statistics from 0 to 1.", remedy="Report this as a bug in the task.")
    return (contribution.weight * min(1.0, shape.clip_norm_l2 / norm) if norm > 0 else 0.0), tail


@dataclass(frozen=True)
class Sum:
    """The result of one round for the coordinator: the sum over some sites, and which sites.

    Args:
        vector: float64, length d + 1 + m.
        sites: ids of the sites in the sum, ascending.
    """

    vector: Float64Vector
    sites: tuple[int, ...]

    def mean_update(self, shape: Shape) -> Float64Vector:
        """Return the weighted mean of the clipped updates, length d; raises ProtectionError if the total weight is zero."""
        weight = float(self.vector[shape.parameters])
        if weight <= 0:
            raise ProtectionError(
                "Expected a positive total weight, got zero.",
                remedy="No site has training patients for this job; check its data set and classes.",
            )
        mean: Float64Vector = self.vector[: shape.parameters] / weight
        return mean

    def statistics(self, shape: Shape, bound: float) -> Float64Vector:
        """Return the summed statistics, multiplied by their public bound."""
        totals: Float64Vector = self.vector[shape.parameters + 1 :] * bound
        return totals
