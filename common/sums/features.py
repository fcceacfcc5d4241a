"""Nine features of an image's intensities, for small models and for ComBat: their distribution and gradient."""

import numpy as np

from salus.common.job_statistics import FEATURES
from salus.common.sums.base import Float64Vector, FloatArray

__all__ = ["FEATURES", "image_features"]


def image_features(intensities: FloatArray, low: float, high: float) -> Float64Vector | None:
    """Return `FEATURES` of intensities that are scaled from `low` .. `high` to 0 .. 1; None without an image.

    Values more than one range width outside the range are clipped, so that one unusual image cannot dominate a sum.

    ``edge`` is the mean length of the gradient per pixel, over the axes longer than one.
    """
    if intensities.size == 0 or not np.isfinite(intensities).all():
        return None
    values = np.clip((intensities.astype(np.float64) - low) / (high - low), -1.0, 2.0)
    axes = [axis for axis in range(1, values.ndim) if values.shape[axis] > 1]
    slopes = [np.gradient(values, axis=axis) for axis in axes]
    edge = float(np.sqrt(np.sum([slope**2 for slope in slopes], axis=0)).mean()) if slopes else 0.0
    return np.array(
        [values.mean(), values.std(), *np.percentile(values, (10, 25, 50, 75, 90, 99)), edge], dtype=np.float64
    )
