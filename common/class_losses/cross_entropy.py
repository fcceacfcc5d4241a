"""Cross-entropy, weighted by class."""

from salus.common.class_losses.base import weights_of
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch


class CrossEntropy:
    """The negative log-probability of the truth; the mean over classes where each is a yes or no."""

    def __init__(self, settings: TaskSettings) -> None:
        self._weights = weights_of(settings)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """See `ClassLoss`."""
        weights = self._weights.to(logits)
        if labels.dim() == 1:
            return F.cross_entropy(logits, labels, reduction="none") * weights[labels]
        each = F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights, reduction="none")
        return each.mean(dim=1)
