"""Metrics of survival as sums over patients: concordance and Brier score, from histograms of risk, time and event."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.optional_torch import torch

RISK_LOW, RISK_HIGH = (
    -7.0,
    3.0,
)  # logarithms of cumulative hazards: 0.1 % to certain death; beyond, the first or last bin
RISK_BINS, TIME_BINS = 251, 60  # finer than the risks of a cohort differ, because patients within a bin count as equal
SHARE_BINS = 20
LEAST_FOLLOWED = 1e-3  # share of the patients still followed, below which a weight would be of a single patient
Totals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Concordance:
    """The chance that of two patients the one with the earlier event had the higher risk (Harrell et al. 1982).

    Patients are counted in cells of risk, time and event. Two patients in one bin of risk count half, and two in one bin of time
    are not compared, so the result differs from the exact one by the width of the bins.

    Args:
        horizon: time at which the follow-up ends; later events count as censored there.
    """

    horizon: float

    @property
    def size(self) -> int:
        """Length of a row."""
        return RISK_BINS * TIME_BINS * 2

    def rows(self, risk: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return one cell for each item, float64 ``[items, size]``.

        Args:
            risk: ``[items]``, larger is worse.
            label: time and event, ``[items, 2]``.
        """
        time, event = time_bins(label, self.horizon)
        share = (torch.nan_to_num(risk).clamp(RISK_LOW, RISK_HIGH) - RISK_LOW) / (RISK_HIGH - RISK_LOW)
        bins = (share * (RISK_BINS - 1)).round()
        return one_hot((bins.long() * TIME_BINS + time) * 2 + event, self.size)

    def value(self, totals: Totals) -> float | None:
        """Return the concordance of summed rows, or None if no two patients can be compared."""
        cells = totals.reshape(RISK_BINS, TIME_BINS, 2)
        everyone = cells.sum(axis=2)
        # Of those who were followed longer than each bin of time: all later bins, and the censored of the same bin.
        later = np.cumsum(everyone[:, ::-1], axis=1)[:, ::-1] - everyone + cells[:, :, 0]
        lower = np.cumsum(later, axis=0) - later
        events = cells[:, :, 1]
        pairs = float((events * later.sum(axis=0)).sum())
        if pairs < 0.5:
            return None
        return float((events * (lower + later / 2)).sum() / pairs)


@dataclass(frozen=True)
class Brier:
    """The mean squared error of the chance of being free of the event at one time (Graf et al. 1999).

    Patients who were lost before count not at all, and those who stayed count for them as well, weighted by the inverse share of
    patients that were still followed, which comes from the same histogram.

    Args:
        at: the time.
        horizon: as in `Concordance`.
    """

    at: float
    horizon: float

    @property
    def size(self) -> int:
        """Length of a row."""
        return SHARE_BINS * TIME_BINS * 2

    def rows(self, free: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return one cell for each item, float64 ``[items, size]``.

        Args:
            free: chance of being free of the event at the time, ``[items]``.
        """
        time, event = time_bins(label, self.horizon)
        bins = (free * SHARE_BINS).long().clamp(0, SHARE_BINS - 1)
        return one_hot((bins * TIME_BINS + time) * 2 + event, self.size)

    def value(self, totals: Totals) -> float | None:
        """Return the score of summed rows, or None without patients whose fate at the time is known."""
        cells = totals.reshape(SHARE_BINS, TIME_BINS, 2)
        followed = still_followed(cells.sum(axis=0))
        said = (np.arange(SHARE_BINS) + 0.5) / SHARE_BINS
        place = min(TIME_BINS - 1, int(self.at / self.horizon * TIME_BINS))
        weights = 1 / np.maximum(np.concatenate([[1.0], followed[:-1]]), LEAST_FOLLOWED)
        gone = cells[:, :place, 1] * weights[:place]
        free = cells[:, place:].sum(axis=(1, 2)) / max(float(np.concatenate([[1.0], followed])[place]), LEAST_FOLLOWED)
        total = float(gone.sum() + free.sum())
        if total < 0.5:
            return None
        return float(((said**2)[:, None] * gone).sum() + ((1 - said) ** 2 * free).sum()) / total


def time_bins(label: torch.Tensor, horizon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bin of each item's time, and whether the event happened before the horizon, both ``[items]`` whole numbers."""
    time = torch.nan_to_num(label[:, 0]).clamp(min=0)
    event = ((label[:, 1] > 0.5) & (time <= horizon)).long()
    return (time / horizon * TIME_BINS).long().clamp(max=TIME_BINS - 1), event


def one_hot(places: torch.Tensor, size: int) -> torch.Tensor:
    """Return rows with a one at these places, float64."""
    rows = torch.zeros(len(places), size, dtype=torch.float64)
    rows[torch.arange(len(places)), places] = 1.0
    return rows


def still_followed(counts: Totals) -> Totals:
    """Return the share of patients that are not lost after each bin, ``[bins]``: Kaplan and Meier 1958 for being lost.

    Args:
        counts: ``[bins, 2]`` of the censored and of the events; within a bin events come first.
    """
    everyone = counts.sum(axis=1)
    there = np.cumsum(everyone[::-1])[::-1] - counts[:, 1]
    lost = np.divide(counts[:, 0], there, out=np.zeros(len(counts)), where=there > 0)
    share: Totals = np.cumprod(1 - lost)
    return share
