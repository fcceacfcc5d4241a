"""Class-balanced loss (Cui et al. 2019, arXiv 1901.05555): classes weighted by the inverse of their effective number of items.

The effective number of n items is ``(1 - beta^n) / (1 - beta)``: with beta = 0 all classes weigh the same, with beta near 1
the weights are those of inverse frequency. They are scaled so that their mean over the classes is 1, as in the paper.
"""

from typing import Annotated

from pydantic import Field

from salus.common.class_losses.base import Count, log_of_truth, one_for_each_class, weighted
from salus.common.errors import JobError
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.strict import Strict


class ClassBalancedSettings(Strict):
    """Settings of the class-balanced loss.

    Args:
        class_counts: Items of each class over all sites, protected counts; of several findings, the items that show each.
        effective_beta: Share by which a further item adds less than the one before it.
    """

    class_counts: tuple[Count, ...]
    effective_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999  # the middle of the three values of the paper


class ClassBalanced:
    """Cross-entropy with weights from effective numbers; of several findings, the present ones are weighted."""

    Settings = ClassBalancedSettings

    def __init__(self, settings: TaskSettings) -> None:
        own = settings_of(settings, ClassBalancedSettings)
        if getattr(settings, "class_weights", ()):
            raise JobError(
                'Expected no task.class_weights with class_loss = "class-balanced", which weighs by class_counts.',
                remedy="Remove one of them.",
            )
        counts = one_for_each_class(own.class_counts, settings, "class_counts")
        # Both ends by expm1, so that counts below 1 and large ones keep their digits; beta 0 makes every number 1.
        log_beta = torch.log(torch.tensor(max(own.effective_beta, 1e-300), dtype=torch.float64))
        inverse = 1.0 / -torch.expm1(counts * log_beta)
        self.weights = inverse / inverse.mean()

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """See `ClassLoss`."""
        return weighted(-log_of_truth(logits, labels), labels, self.weights)
