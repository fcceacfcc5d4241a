"""Distances between the surfaces of predicted and true masks, in millimetres: surface Dice and the 95 % Hausdorff distance.

Surface Dice after Nikolov et al. 2021 (arXiv 1809.04430), with the surface's voxels in place of its area, as in MONAI; the
Hausdorff distance is the larger of the 95 % quantiles in both directions. Without known spacing the unit is one voxel.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.metrics.histograms import one_hot_bins, quantile
from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals

SURFACE_DICE_EDGES = tuple(place / 20 for place in range(21))
HAUSDORFF_EDGES_MM = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """The rows of surface distances, and the metrics of their sum.

    Args:
        classes: names of the structures.
        tolerance_mm: largest distance that surface Dice counts as agreement.
    """

    classes: tuple[str, ...]
    tolerance_mm: float

    @property
    def size(self) -> int:
        """Length of a row."""
        return len(self.classes) * (1 + len(SURFACE_DICE_EDGES) - 1 + len(HAUSDORFF_EDGES_MM) - 1)

    def rows(self, predicted: torch.Tensor, wanted: torch.Tensor, spacing_mm: torch.Tensor) -> torch.Tensor:
        """Return one row for each case, float64 ``[items, size]``, each entry between 0 and 1.

        Args:
            predicted, wanted: boolean ``[items, structures, *spatial]``.
            spacing_mm: ``[items, dimensions]``.

        A case without the structure adds nothing; one where nothing was predicted has a surface Dice of 0 and an infinite
        distance.
        """
        items, structures = wanted.shape[:2]
        found, true, spacing = (x.cpu().numpy() for x in (predicted, wanted, spacing_mm))
        values = np.zeros((2, items, structures))
        for item in range(items):
            for structure in range(structures):
                values[:, item, structure] = compare(
                    found[item, structure], true[item, structure], spacing[item], self.tolerance_mm
                )
        agreement, distance = (torch.from_numpy(v) for v in values)
        present = wanted.cpu().flatten(2).any(dim=2)
        parts = [
            (agreement * present)[..., None],
            one_hot_bins(agreement, SURFACE_DICE_EDGES, present),
            one_hot_bins(distance, HAUSDORFF_EDGES_MM, present),
        ]
        return torch.cat(parts, dim=2).flatten(1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return surface_dice_<class>, a mean over cases, its median, and the median of hausdorff95_<class> in millimetres.

        A distance above the largest edge of the histogram is that edge.
        """
        result: dict[str, float] = {}
        bins = len(SURFACE_DICE_EDGES) - 1
        for name, row in zip(self.classes, totals.reshape(len(self.classes), -1), strict=True):
            cases = float(row[1 : 1 + bins].sum())
            median = quantile(row[1 + bins :], HAUSDORFF_EDGES_MM, 0.5)
            if cases > 0.5 and median is not None:
                result[f"surface_dice_{name}"] = float(row[0]) / cases
                result[f"surface_dice_median_{name}"] = quantile(row[1 : 1 + bins], SURFACE_DICE_EDGES, 0.5) or 0.0
                result[f"hausdorff95_mm_{name}"] = median
        return result


def compare(predicted: Mask, true: Mask, spacing_mm: Distances, tolerance_mm: float) -> tuple[float, float]:
    """Return surface Dice and the 95 % Hausdorff distance in millimetres of two masks of one grid.

    Two empty masks agree (1 and 0); an empty and another one do not (0 and infinity).
    """
    if not predicted.any() or not true.any():
        return (0.0, np.inf) if predicted.any() or true.any() else (1.0, 0.0)
    from scipy import ndimage

    around = _bounds(predicted | true)
    edges = [_edge(mask[around]) for mask in (predicted, true)]
    spacing = np.where(np.isfinite(spacing_mm) & (spacing_mm > 0), spacing_mm, 1.0)
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    there, back = away[1][edges[0]], away[0][edges[1]]
    close = int((there <= tolerance_mm).sum() + (back <= tolerance_mm).sum())
    quantiles = [float(np.quantile(distances, 0.95)) for distances in (there, back)]
    return close / (there.size + back.size), max(quantiles)


def _bounds(mask: Mask) -> tuple[slice, ...]:
    """Return the box around a mask with one voxel more on each side: distances outside of it are never asked for."""
    places = np.nonzero(mask)
    return tuple(slice(max(0, int(axis.min()) - 1), int(axis.max()) + 2) for axis in places)


def _edge(mask: Mask) -> Mask:
    """Return the voxels of a mask that touch the outside, the border of the image included."""
    from scipy import ndimage

    edge: Mask = mask & ~ndimage.binary_erosion(mask)
    return edge
