"""Logit-adjusted loss (Menon et al. 2021, arXiv 2007.07314): logits plus the log of the classes' shares, in training only.

The model then ranks by the likelihood of the image alone, which minimises the balanced error. Its probabilities are those of
classes that are equally frequent.
"""

from typing import Annotated

from pydantic import Field

from salus.common.class_losses.base import log_of_truth, one_for_each_class, weighted, weights_of
from salus.common.errors import JobError
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.strict import Strict


class LogitAdjustedSettings(Strict):
    """Settings of the logit-adjusted loss.

    Args:
        class_shares: Share of each class over all sites, from protected counts; of several findings, of the items with each.
        adjustment: Factor of the log of the shares; 1 is consistent for the balanced error.
    """

    class_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    adjustment: Annotated[float, Field(ge=0, le=10)] = 1.0  # the one value for which the paper has a proof


class LogitAdjusted:
    """Cross-entropy of ``logits + adjustment log(share)``; of several findings the log-odds of each share."""

    Settings = LogitAdjustedSettings

    def __init__(self, settings: TaskSettings) -> None:
        own = settings_of(settings, LogitAdjustedSettings)
        shares = one_for_each_class(own.class_shares, settings, "class_shares")
        if settings.kind != "multilabel" and abs(float(shares.sum()) - 1) > 0.01:
            raise JobError(
                f"Expected task.class_shares with a sum of 1, got {float(shares.sum()):.3f}.",
                remedy="Divide the counts by their sum.",
            )
        self._offset, self._odds = own.adjustment * torch.log(shares), own.adjustment * torch.logit(shares)
        self._weights = weights_of(settings)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """See `ClassLoss`."""
        offset = self._offset if labels.dim() == 1 else self._odds
        return weighted(-log_of_truth(logits + offset.to(logits), labels), labels, self._weights)
