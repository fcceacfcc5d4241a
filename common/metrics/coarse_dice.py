"""Dice under differential privacy: six numbers of each structure for a patient, and the mean Dice of their noisy sum.

A case that has the structure divides one unit between the two neighbouring points of a coarse scale, in proportion to how
close its Dice is to each. So the mean over cases is exact but for noise, and the sum is also a histogram, which gives the
spread over patients. Cases without the structure are in two cells of their own: something was predicted, or nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

from salus.common.estimates import NOTHING, Estimate, Metric
from salus.common.metrics.histograms import one_hot_bins
from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals

# Few points cost little noise; two near 1, where good models are, keep the spread close (chosen by the error at 0.8).
SCALE = (0.0, 0.5, 0.75, 1.0)
CELLS = len(SCALE) + 2
LEAST_ITEMS = 3.0  # a count must be this many standard errors above zero to be a divisor
TYPICAL_DICE, TYPICAL_SD = 0.8, 0.1


@dataclass(frozen=True)
class CoarseDice:
    """The rows of private Dice, and the metrics of their noisy sum.

    Args:
        classes: names of the structures.
    """

    classes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Length of a row."""
        return len(self.classes) * CELLS

    @property
    def norm_l2(self) -> float:
        """Euclidean norm by which rows are divided: each structure's cells are at least 0 and add up to one."""
        return math.sqrt(len(self.classes))

    def rows(self, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return one row for each case, float64 ``[items, size]``, of Euclidean norm at most 1.

        Args:
            predicted, wanted: boolean ``[items, structures, *spatial]``.
        """
        common, found, true = (m.flatten(2).sum(dim=2).double() for m in (predicted & wanted, predicted, wanted))
        dice, present = 2 * common / (found + true).clamp(min=1), true > 0
        scale = torch.tensor(SCALE, dtype=torch.float64)
        lower = one_hot_bins(dice, SCALE, present)
        share = ((dice[..., None] - scale[:-1]) / scale.diff()).clamp(0, 1) * lower
        cells = torch.nn.functional.pad(lower - share, (0, 1)) + torch.nn.functional.pad(share, (1, 0))
        others = torch.stack([~present & (found == 0), ~present & (found > 0)], dim=2).double()
        return torch.cat([cells, others], dim=2).flatten(1) / self.norm_l2

    def metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return dice_mean and, for each structure, dice_<class> and false_alarm_<class>, never clipped, with standard errors.

        Args:
            totals: the sum of rows of all patients of all sites, with noise.
            noise_sd: standard deviation of the noise in each entry of `totals`.
        """
        cells, noise_sd = totals.reshape(len(self.classes), CELLS) * self.norm_l2, noise_sd * self.norm_l2
        found = [_mean_dice(row[: len(SCALE)], noise_sd) for row in cells]
        result: dict[str, Metric] = {"dice_mean": _mean(found)}
        for name, dice, row in zip(self.classes, found, cells, strict=True):
            result[f"dice_{name}"] = dice
            quiet, alarms = row[len(SCALE) :].tolist()
            alarm = _share(alarms, quiet, noise_sd)
            if alarm.value is not None:
                result[f"false_alarm_{name}"] = alarm
        return result

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a typical model, with a Dice of 0.8 for every structure, to predict their errors."""
        spread = np.clip(np.random.default_rng(0).normal(TYPICAL_DICE, TYPICAL_SD, 1000), 0, 1)
        cells = np.zeros((len(self.classes), CELLS))
        cells[:, : len(SCALE)] = [
            np.interp(spread, SCALE, np.eye(len(SCALE))[point]).mean() * patients for point in range(len(SCALE))
        ]
        return self.metrics(cells.reshape(-1) / self.norm_l2, noise_sd)


def _mean_dice(cells: Totals, noise_sd: float) -> Estimate:
    """Return the mean of a scaled histogram by the delta method.

    The spread over patients is measured from the histogram, which overstates it by at most half the width of a cell.
    """
    points = np.array(SCALE)
    cases = float(cells.sum())
    if cases < max(0.5, LEAST_ITEMS * noise_sd * math.sqrt(len(SCALE))):
        return NOTHING
    mean = float(cells @ points) / cases
    noise = noise_sd**2 * float(((points - mean) ** 2).sum()) / cases**2
    # Noise can make the measured spread negative or larger than any; half the range is the largest that there is.
    variance = min(max(float(cells @ (points - mean) ** 2) / cases, 0.0), 0.25)
    return Estimate(value=mean, standard_error=math.sqrt(noise + variance / cases), noise_error=math.sqrt(noise))


def _share(hits: float, others: float, noise_sd: float) -> Estimate:
    """Return hits / (hits + others), as `_mean_dice` does."""
    items = hits + others
    if items < max(0.5, LEAST_ITEMS * noise_sd * math.sqrt(2)):
        return NOTHING
    share = hits / items
    noise = noise_sd**2 * ((1 - share) ** 2 + share**2) / items**2
    shrunk = (min(max(hits, 0.0), items) + 2) / (items + 4)  # Agresti and Coull 1998
    return Estimate(
        value=share,
        standard_error=math.sqrt(noise + shrunk * (1 - shrunk) / (items + 4)),
        noise_error=math.sqrt(noise),
    )


def _mean(estimates: list[Estimate]) -> Estimate:
    """Return the mean over structures; their noise is independent, and the choice of patients is treated as common to all."""
    values = [e.value for e in estimates if e.value is not None]
    if len(values) < len(estimates):
        return NOTHING
    noises = [e.noise_error or 0.0 for e in estimates]
    sampling = sum(
        math.sqrt(max((e.standard_error or 0.0) ** 2 - n**2, 0.0)) for e, n in zip(estimates, noises, strict=True)
    )
    noise = math.hypot(*noises) / len(estimates)
    return Estimate(
        value=sum(values) / len(values),
        standard_error=math.hypot(noise, sampling / len(estimates)),
        noise_error=noise,
    )
