"""Scores of generated images against real ones, from sums over the real ones.

Features come from fixed filters that are drawn from a public seed, so that every site has the same ones without a download.
The scale of the Frechet distance (Heusel et al. 2017, arXiv 1706.08500) depends on this space: compare it only with distances
from Salus, such as that between two halves of the real images. The score of a classifier that is trained on generated and
tested on real images is after Ravuri and Vinyals 2019 (arXiv 1905.10887); here the classifier is least squares on the fixed
features, which needs no choice of steps or seed.
"""

import functools
import itertools

import numpy as np
import numpy.typing as npt

from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch

FEATURES = 16  # of the small space: 152 sums hold their mean and covariance
PRODUCTS = FEATURES * (FEATURES + 1) // 2
MOMENTS = FEATURES + PRODUCTS
LARGEST_SIDE = {2: 32, 3: 16}  # images are averaged to this first, so that scores cost little whatever the images' size
FILTERS = (16, 32)
POOLED = 4  # parts along each side in which filter responses are averaged
SEED = 20_260_101  # of the filters; a change changes every distance
GAIN = 16.0  # of the small space, so that the features of X-rays spread over a good part of 0 .. 1
SCALE = 1000.0  # of the distance, so that usual ones are from 0.1 to some hundreds
RIDGE = 1e-2  # weight of the penalty; from 0.001 to 1 it changes the AUC on real X-rays by 0.01
LOG_ODDS = 8.0  # by which the classifier's scores are multiplied, so that they spread over the cells of `tasks.coarse`
LARGEST_VALUE = 1e3  # of a generated pixel
Sums = npt.NDArray[np.float64]


class FixedFeatures:
    """Fixed features of images, the same everywhere.

    Args:
        channels, spatial: of the images, ``[items, channels, *spatial]``.
    """

    def __init__(self, channels: int, spatial: int) -> None:
        self._spatial = spatial
        random = torch.Generator().manual_seed(SEED)
        self._filters, before = [], channels
        for width in FILTERS:
            drawn = torch.randn(width, before, *[3] * spatial, generator=random)
            drawn = drawn - drawn.flatten(2).mean(dim=2).reshape(
                width, before, *[1] * spatial
            )  # no answer to brightness
            self._filters.append(drawn / drawn.flatten(1).norm(dim=1).reshape(width, *[1] * (spatial + 1)))
            before = 2 * width
        self.width: int = (channels + before) * POOLED**spatial
        self._projection = torch.randn(self.width, FEATURES, generator=random) * GAIN / self.width**0.5

    def wide(self, images: torch.Tensor) -> torch.Tensor:
        """Return many features of each image, float32 ``[items, width]`` on the CPU; values that are no numbers are 0."""
        images = torch.nan_to_num(images.detach().float().cpu()).clamp(-LARGEST_VALUE, LARGEST_VALUE)
        x = _pooled(images, [min(side, LARGEST_SIDE[self._spatial]) for side in images.shape[2:]])
        convolve = F.conv2d if self._spatial == 2 else F.conv3d
        parts = [_pooled(x, [POOLED] * self._spatial).flatten(1)]
        for number, filters in enumerate(self._filters):
            x = convolve(x, filters, padding=1)
            x = torch.cat([x.relu(), (-x).relu()], dim=1)
            if number == 0:
                x = _pooled(x, [max(1, side // 2) for side in x.shape[2:]])
        return torch.cat([*parts, _pooled(x, [POOLED] * self._spatial).flatten(1)], dim=1)

    def small(self, wide: torch.Tensor) -> torch.Tensor:
        """Return few features of each image, each from 0 to 1, float64 ``[items, FEATURES]``."""
        return torch.sigmoid(wide @ self._projection).double()


@functools.cache
def fixed_features(channels: int, spatial: int) -> FixedFeatures:
    """Return the features for images with so many channels and 2 or 3 sides."""
    return FixedFeatures(channels, spatial)


def _pooled(images: torch.Tensor, sides: list[int]) -> torch.Tensor:
    pool = F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d
    return pool(images, sides)  # type: ignore[arg-type]  # as many sides as the pooling has


def moments(small: torch.Tensor) -> torch.Tensor:
    """Return each image's features and their products, each from 0 to 1, float64 ``[items, MOMENTS]``."""
    first, second = torch.triu_indices(FEATURES, FEATURES)
    return torch.cat([small, small[:, first] * small[:, second]], dim=1)


def frechet_distance(one: Sums, two: Sums) -> float:
    """Return the Frechet distance of two normal distributions with these mean `moments`, each ``[MOMENTS]``; never negative.

    It is `SCALE` times ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982).
    """
    (mean, covariance), (other, others) = _normal(one), _normal(two)
    root = _root(covariance)
    shared = float(np.sqrt(np.clip(np.linalg.eigvalsh(root @ others @ root), 0, None)).sum())
    return SCALE * max(0.0, float(((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(others) - 2 * shared))


def _normal(mean_moments: Sums) -> tuple[Sums, Sums]:
    mean = mean_moments[:FEATURES]
    second = np.zeros((FEATURES, FEATURES))
    upper = np.triu_indices(FEATURES)
    second[upper] = mean_moments[FEATURES:]
    second.T[upper] = mean_moments[FEATURES:]
    return mean, second - np.outer(mean, mean)


def _root(covariance: Sums) -> Sums:
    values, vectors = np.linalg.eigh(covariance)
    root: Sums = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


class LeastSquares:
    """A linear classifier on wide features, trained on labelled images by regularised least squares.

    Args:
        wide: ``[items, width]``.
        labels: class numbers ``[items]``.
        classes: number of classes.
    """

    def __init__(self, wide: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
        wide = wide.double()
        self._mean, self._spread = wide.mean(dim=0), wide.std(dim=0, correction=0) + 1e-6
        x = (wide - self._mean) / self._spread
        y = (labels[:, None] == torch.arange(classes)).double()
        self._offset = y.mean(dim=0)
        penalty = RIDGE * len(x) * x.shape[1] ** 0.5
        if len(x) < x.shape[1]:  # as many equations as images or features, whichever are fewer
            gram = x @ x.T + penalty * torch.eye(len(x), dtype=torch.float64)
            self._weights = x.T @ torch.linalg.solve(gram, y - self._offset)
        else:
            gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
            self._weights = torch.linalg.solve(gram, x.T @ (y - self._offset))

    def logits(self, wide: torch.Tensor) -> torch.Tensor:
        """Return scores of each class, float64 ``[items, classes]``."""
        scores: torch.Tensor = (wide.double() - self._mean) / self._spread @ self._weights + self._offset
        return LOG_ODDS * scores


def balanced(classes: int, count: int) -> torch.Tensor:
    """Return labels ``[items]`` in turn, so that every class is there at least once and as often as the others."""
    return torch.tensor(list(itertools.islice(itertools.cycle(range(classes)), -(-count // classes) * classes)))
