"""Nine features of an image's intensities, for small models and for ComBat: their distribution and gradient."""

import numpy as np
import numpy.typing as npt

from salus.common.job_statistics import FEATURES
from salus.common.sums.base import Float64Vector, FloatArray

__all__ = ["FEATURES", "image_features"]
Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


def image_features(
    intensities: FloatArray, low: float, high: float, padding: Bools | None = None
) -> Float64Vector | None:
    """Return `FEATURES` of intensities that are scaled from `low` .. `high` to 0 .. 1; None without an image.

    Values more than one range width outside the range are clipped, so that one unusual image cannot dominate a sum.

    ``edge`` is the mean length of the gradient per pixel, over the axes longer than one.

    Args:
        padding: which intensities do not count; the image ends where they begin.
    """
    if intensities.size == 0 or not np.isfinite(intensities).all() or (padding is not None and padding.all()):
        return None
    values = np.clip((intensities.astype(np.float64) - low) / (high - low), -1.0, 2.0)
    axes = [axis for axis in range(1, values.ndim) if values.shape[axis] > 1]
    slopes = [_slope(values, padding, axis) for axis in axes]
    lengths = np.sqrt(np.sum([slope**2 for slope in slopes], axis=0)) if slopes else np.zeros(values.shape)
    if padding is not None:
        values, lengths = values[~padding], lengths[~padding]
    percentiles = np.percentile(values, (10, 25, 50, 75, 90, 99))
    return np.array([values.mean(), values.std(), *percentiles, float(lengths.mean())], dtype=np.float64)


def _slope(values: Float64, padding: Bools | None, axis: int) -> Float64:
    """Return the gradient along an axis; beside padding it is one-sided, as at the edge of an image."""
    if padding is None:
        return np.asarray(np.gradient(values, axis=axis), np.float64)
    along, known = np.moveaxis(values, axis, 0), np.moveaxis(~padding, axis, 0)
    pairs = known[1:] & known[:-1]
    steps = np.where(pairs, along[1:] - along[:-1], 0.0)
    slope = np.concatenate([steps, np.zeros_like(along[:1])])
    slope[1:] += np.where(np.concatenate([pairs[1:], np.zeros_like(pairs[:1])]), 0.0, steps)
    both = pairs[1:] & pairs[:-1]
    slope[1:-1][both] = (along[2:] - along[:-2])[both] / 2.0
    return np.moveaxis(slope, 0, axis)
