"""One number per image or row, such as an ejection fraction or bone age, within public limits.

All metrics follow from sums of products of the true and the predicted number, both as shares of the range.
"""

import math
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import Batch, Field
from salus.common.estimates import NOTHING, Estimate, Metric
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Said, Step, Totals, full
from salus.common.tasks.tabular import ImagesOrRows

ENTRIES = ("items", "error", "squared_error", "true", "true_squared")
LEAST_ITEMS = 3.0  # standard errors of the count above zero, to be a divisor


class RegressionSettings(TaskSettings):
    """Settings of regression.

    Args:
        low: Smallest value that the number can have, in its own unit; smaller ones count as this.
        high: Largest value that the number can have; larger ones count as this.
        smoothness: Error, as a share of the range, above which the loss grows linearly instead of quadratically.
    """

    low: Annotated[float, Key(ge=-1e12, le=1e12)] = 0.0
    high: Annotated[float, Key(ge=-1e12, le=1e12)] = 1.0
    smoothness: Annotated[float, Key(gt=0, le=1)] = 0.1  # single wrong labels do not dominate

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if not self.high > self.low:
            raise ValueError("expected low below high")
        if len(self.classes) != 1:
            raise ValueError("expected one name in classes, that of the number")
        return self


class Regression(ImagesOrRows):
    """The number that a label states; `task.classes` holds its name."""

    Settings = RegressionSettings
    label_is = "measurement"
    headline = ("mae", "r2")

    def _set(self, settings: TaskSettings, inputs: dict[str, Field]) -> None:
        super()._set(settings, inputs)
        self.own = settings_of(settings, RegressionSettings)
        self.range = self.own.high - self.own.low
        self.spec = {**inputs, "label": Field(())}

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return the number as a share of the range, from 0 to 1, or None if the label is no number."""
        try:
            value = float(label)
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        return np.array(min(max((value - self.own.low) / self.range, 0.0), 1.0), dtype=np.float32)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the predicted numbers as shares of the range, ``[items]``."""
        return super().infer(model, batch)[:, 0] + 0.5  # networks start near zero: the middle of the range

    def said(self, outputs: torch.Tensor) -> Said:
        """Return the number in its own unit, cut to the job's limits."""
        share = min(max(float(outputs), 0.0), 1.0)
        value = self.own.low + share * self.range
        return Said(f"{value:.6g}", values={self.settings.classes[0]: value})

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's Huber loss, 1 at an error of `smoothness`."""
        found = full(self.infer(model, batch)) / self.own.smoothness
        return 2 * F.huber_loss(found, batch["label"].to(found) / self.own.smoothness, reduction="none")

    @property
    def statistics_size(self) -> int:
        return len(ENTRIES)

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the entries of `ENTRIES` for each item, predictions cut to the range."""
        found = torch.nan_to_num(outputs.detach().double().cpu()).clamp(0, 1)
        true = batch["label"].double().cpu().clamp(0, 1)
        error = (found - true).abs()
        return torch.stack([torch.ones_like(true), error, error**2, true, true**2], dim=1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return mae and rmse in the number's unit, and r2 if the numbers vary."""
        items = totals[0]
        if items < 0.5:
            return {}
        error, squared, true, true_squared = totals[1:] / items
        # A site that adds what no row can be must not end the job of all others.
        result = {"mae": float(error * self.range), "rmse": float(math.sqrt(max(squared, 0.0)) * self.range)}
        variance = true_squared - true**2
        if variance > 1e-12:
            result["r2"] = float(1 - squared / variance)
        return result

    def figures(self, totals: Totals) -> Figures:
        """Return nothing: a regression has no ROC curve."""
        return Figures()

    @property
    def private_statistics_size(self) -> int:
        return 2

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the count and the error of each item, divided by the largest norm."""
        return self.rows(outputs, batch)[:, :2] / math.sqrt(2)

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return mae_of_range, the mean error as a share of the range, by the delta method."""
        items, error = (float(value) for value in totals * math.sqrt(2))
        noise_sd *= math.sqrt(2)
        if items < max(0.5, LEAST_ITEMS * noise_sd):
            return {"mae_of_range": NOTHING}
        share = error / items
        noise = noise_sd * math.hypot(1.0, share) / items
        sampling = math.sqrt(max(share * (1 - share), 0.0) / items)  # the largest that a mean of 0 .. 1 can have
        return {"mae_of_range": Estimate(value=share, standard_error=math.hypot(noise, sampling), noise_error=noise)}

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return nothing."""
        return Figures(fitted=True)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with a mean error of a tenth of the range."""
        return self.private_metrics(np.array([patients, 0.1 * patients]) / math.sqrt(2), noise_sd)
