"""Overlap of predicted and true masks for each structure: Dice, IoU, sensitivity, precision and the error of the volume.

Each is computed for every case by itself and averaged over cases (Maier-Hein et al. 2024, arXiv 2206.01653, recommend this
over pooling the voxels, where large structures would hide small ones).
"""

from dataclasses import dataclass

import numpy as np

from salus.common.metrics.histograms import one_hot_bins, quantile
from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals

DICE_EDGES = tuple(place / 20 for place in range(21))
# Of each structure in a row, before the histogram of Dice.
ENTRIES = (
    "present",  # the structure is in the true mask; all following but the last two are of such cases
    "missed",  # nothing was predicted
    "dice",
    "dice_squared",
    "iou",
    "sensitivity",
    "precision",
    "too_large",  # predicted minus true volume, divided by the larger of them
    "too_small",
    "absent",  # the structure is not in the true mask
    "false_alarm",  # and something was predicted
)


@dataclass(frozen=True)
class Overlap:
    """The rows of overlap, and the metrics of their sum.

    Args:
        classes: names of the structures.
    """

    classes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Length of a row."""
        return len(self.classes) * (len(ENTRIES) + len(DICE_EDGES) - 1)

    def rows(self, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return one row for each case, float64 ``[items, size]``, each entry between 0 and 1.

        Args:
            predicted, wanted: boolean ``[items, structures, *spatial]``.
        """
        common, found, true = (m.flatten(2).sum(dim=2).double() for m in (predicted & wanted, predicted, wanted))
        either = (found + true - common).clamp(min=1)
        present, some = true > 0, found > 0
        dice, iou = 2 * common / (found + true).clamp(min=1), common / either
        larger = torch.maximum(found, true).clamp(min=1)
        values = {
            "present": present,
            "missed": ~some,
            "dice": dice,
            "dice_squared": dice**2,
            "iou": iou,
            "sensitivity": common / true.clamp(min=1),
            "precision": common / found.clamp(min=1),
            "too_large": (found - true).clamp(min=0) / larger,
            "too_small": (true - found).clamp(min=0) / larger,
            "absent": ~present,
            "false_alarm": some & ~present,
        }
        of_absent = ENTRIES[-2:]
        entries = torch.stack(
            [values[name].double() * (1 if name in of_absent else present) for name in ENTRIES], dim=2
        )
        return torch.cat([entries, one_hot_bins(dice, DICE_EDGES, present)], dim=2).flatten(1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the metrics of summed rows; those of a structure that is in no true mask are left out.

        dice_mean is the mean over structures; dice_sd_<class> the standard deviation over cases; volume_error_<class> the mean
        of |predicted - true| / larger volume and volume_bias_<class> the same with its sign.
        """
        result: dict[str, float] = {}
        for name, row in zip(self.classes, totals.reshape(len(self.classes), -1), strict=True):
            sums, histogram = dict(zip(ENTRIES, row.tolist(), strict=False)), row[len(ENTRIES) :]
            cases, absent = sums["present"], sums["absent"]
            if cases > 0.5:
                mean = sums["dice"] / cases
                result[f"dice_{name}"] = mean
                result[f"dice_sd_{name}"] = float(np.sqrt(max(0.0, sums["dice_squared"] / cases - mean**2)))
                result[f"dice_median_{name}"] = quantile(histogram, DICE_EDGES, 0.5) or 0.0
                result[f"iou_{name}"] = sums["iou"] / cases
                result[f"sensitivity_{name}"] = sums["sensitivity"] / cases
                if cases - sums["missed"] > 0.5:  # without a prediction there is no precision
                    result[f"precision_{name}"] = sums["precision"] / (cases - sums["missed"])
                result[f"volume_error_{name}"] = (sums["too_large"] + sums["too_small"]) / cases
                result[f"volume_bias_{name}"] = (sums["too_large"] - sums["too_small"]) / cases
                result[f"missed_{name}"] = sums["missed"] / cases
            result[f"cases_{name}"], result[f"empty_cases_{name}"] = round(cases), round(absent)
            if absent > 0.5:
                result[f"false_alarm_{name}"] = sums["false_alarm"] / absent
        dice = [result[f"dice_{name}"] for name in self.classes if f"dice_{name}" in result]
        return {"dice_mean": float(np.mean(dice)), **result} if dice else result
