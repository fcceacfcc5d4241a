"""Logits calibrated by each site's own label counts (FedLC, Zhang et al. 2022, arXiv 2209.00189), against label shift.

A site with few items of a class pushes the logit of that class down in training. FedLC subtracts ``margin * n^(-1/4)`` from
the logit of a class with n training items at the site, so that such a site no longer does. A class that a site lacks counts
as one with a single item, for which the paper has no number.

The counts never leave the site; they act on its update only, which is protected as any other. They do make every patient's
gradient depend on the labels of all others at the site, so with noise the loss is refused.
"""

from typing import Annotated

from pydantic import Field

from salus.common.class_losses.base import log_of_truth, weighted, weights_of
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.strict import Strict


class SiteCalibratedSettings(Strict):
    """Settings of the site-calibrated loss.

    Args:
        margin: Factor of the inverse fourth root of a class's count.
    """

    margin: Annotated[float, Field(ge=0, le=100)] = 1.0  # the smallest of the paper's grid; it acts as a temperature


class SiteCalibrated:
    """Cross-entropy of logits less the margins of their classes; of several findings, of the present ones."""

    Settings = SiteCalibratedSettings
    of_site = True

    def __init__(self, settings: TaskSettings) -> None:
        self._own, self._weights = settings_of(settings, SiteCalibratedSettings), weights_of(settings)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """See `ClassLoss`."""
        if counts is not None:
            logits = logits - self._own.margin * counts.to(logits).clamp(min=1) ** -0.25
        return weighted(-log_of_truth(logits, labels), labels, self._weights)
