"""Named numbers of an image's intensities, texture and gradients, as radiomics uses them; there is no region, so no shape.

Definitions and names of the Image Biomarker Standardisation Initiative (Zwanenburg et al. 2020, Radiology 295(2)) where it
has them: intensity statistics, intensity histogram, and the grey level co-occurrence matrix in two dimensions, of a volume
merged over its slices, with the features averaged over the four directions. Intensities are first scaled by a public range to
0 .. 1 and cut off, so all numbers are bounded; contrast and dissimilarity are divided by their largest value.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from salus.common.extras import required
from salus.common.features.base import Bools, Floats

Doubles = npt.NDArray[np.float64]
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
# The range in which each number lies in most radiographs, doubled: it decides how inputs are scaled and where trees have bins.
FIRST_ORDER: dict[str, tuple[float, float]] = {
    "mean": (0.1, 0.9), "variance": (0, 0.06), "skewness": (-3, 2), "excess kurtosis": (-3, 6), "median": (0.1, 0.9),
    "minimum": (0, 0.5), "10th percentile": (0, 0.7), "90th percentile": (0.4, 1), "maximum": (0.5, 1),
    "interquartile range": (0, 0.45), "range": (0.2, 1), "mean absolute deviation": (0, 0.25),
    "robust mean absolute deviation": (0, 0.2), "root mean square": (0.1, 0.9),
}  # fmt: skip
GRADIENT: dict[str, tuple[float, float]] = {
    "gradient mean": (0, 0.12), "gradient sd": (0, 0.1), "gradient 90th percentile": (0, 0.25),
}  # fmt: skip
TEXTURE: dict[str, tuple[float, float]] = {
    "contrast": (0, 0.05), "dissimilarity": (0, 0.2), "inverse difference moment": (0.1, 0.8),
    "angular second moment": (0, 0.1), "correlation": (0.2, 1),
}  # fmt: skip


def ranges_of(bins: int, distances: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """Return the names of the numbers in their order, each with its usual range."""
    bits = float(np.log2(bins))
    histogram = {"discretised entropy": (0.4 * bits, bits), "discretised uniformity": (0.0, 0.25)}
    texture = {
        f"glcm {name} {distance}": limits
        for distance in distances
        for name, limits in {**TEXTURE, "joint entropy": (0.8 * bits, 1.8 * bits)}.items()
    }
    return {**FIRST_ORDER, **histogram, **GRADIENT, **texture}


def check_installed() -> None:
    """Raise ConfigError, with the line that installs it, where scikit-image is missing."""
    required("skimage.feature", extra="features", what='The transform "radiomics"')


def radiomics_of(
    intensities: Floats, low: float, high: float, bins: int, distances: tuple[int, ...], padding: Bools | None = None
) -> Doubles | None:
    """Return the numbers that `ranges_of` names; None for an image with values that are not finite, or without any.

    Args:
        intensities: ``[channels, *spatial]``, 2-D or 3-D; channels are averaged.
        low, high: intensities that become 0 and 1.
        bins: equal grey levels into which 0 .. 1 is divided for histogram and texture.
        distances: of the pairs of pixels that are compared.
        padding: which intensities do not count.
    """
    known: Bools | None = None if padding is None else np.asarray(~padding.all(axis=0))
    if intensities.ndim not in (3, 4) or intensities.size == 0 or not np.isfinite(intensities).all():
        return None
    values = np.clip((intensities.astype(np.float64) - low) / (high - low), 0.0, 1.0).mean(axis=0)
    known = np.ones(values.shape, np.bool_) if known is None else known
    if not known.any():
        return None
    levels = np.minimum((values * bins).astype(np.int64), bins - 1)
    shares = np.bincount(levels[known], minlength=bins) / known.sum()
    parts = [*_first_order(values[known]), _entropy(shares), float((shares**2).sum()), *_gradient(values, known)]
    levels[~known] = bins  # a level of its own, which is left out of every matrix
    for distance in distances:
        parts += _texture(levels, bins, distance)
    return np.nan_to_num(np.array(parts, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _first_order(values: Doubles) -> Iterator[float]:
    mean, sd = float(values.mean()), float(values.std())
    standard = (values - mean) / sd if sd > 1e-9 else np.zeros_like(values)
    p10, p25, median, p75, p90 = (float(value) for value in np.percentile(values, (10, 25, 50, 75, 90)))
    inner = values[(values >= p10) & (values <= p90)]
    yield from (
        mean,
        sd**2,
        float((standard**3).mean()),
        float((standard**4).mean()) - 3.0 if sd > 1e-9 else 0.0,
        median,
    )
    yield from (float(values.min()), p10, p90, float(values.max()), p75 - p25, float(np.ptp(values)))
    yield float(np.abs(values - mean).mean())
    yield float(np.abs(inner - inner.mean()).mean()) if inner.size else 0.0
    yield float(np.sqrt((values**2).mean()))


def _gradient(values: Doubles, known: Bools) -> Iterator[float]:
    axes = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    slopes = [np.gradient(values, axis=axis) for axis in axes]
    length = np.sqrt(np.sum([slope**2 for slope in slopes], axis=0)) if slopes else np.zeros(values.shape)
    inside = length[known]
    yield from (float(inside.mean()), float(inside.std()), float(np.percentile(inside, 90)))


def _texture(levels: npt.NDArray[np.int64], bins: int, distance: int) -> list[float]:
    """Return `TEXTURE` and the joint entropy, from symmetric matrices summed over slices; 0 where there is no pair."""
    feature = required("skimage.feature", extra="features", what='The transform "radiomics"')
    graycomatrix, graycoprops = feature.graycomatrix, feature.graycoprops
    slices = levels if levels.ndim == 3 else levels[None]
    counts = np.zeros((bins, bins, 1, len(ANGLES)))
    for one in slices:
        found = graycomatrix(one.astype(np.uint16), [distance], ANGLES, levels=bins + 1, symmetric=True)
        counts += found[:bins, :bins]
    shares = counts / np.maximum(counts.sum(axis=(0, 1), keepdims=True), 1.0)
    found = {
        name: float(graycoprops(shares, name).mean()) for name in ("contrast", "dissimilarity", "homogeneity", "ASM")
    }
    correlation = float(graycoprops(shares, "correlation").mean()) if counts.any() else 0.0
    entropy = float(np.mean([_entropy(shares[:, :, 0, angle].reshape(-1)) for angle in range(len(ANGLES))]))
    return [
        found["contrast"] / (bins - 1) ** 2, found["dissimilarity"] / (bins - 1), found["homogeneity"], found["ASM"],
        correlation, entropy,
    ]  # fmt: skip


def _entropy(shares: Doubles) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log2(there)).sum())
