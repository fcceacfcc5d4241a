"""Mixup (Zhang et al. 2018, arXiv 1710.09412): an item becomes a mixture of two, and so does its loss.

Who trains mixes the inputs and adds the other item's label and the share of the own one as fields, so the loss of item i still
depends on item i of the batch only.
"""

from salus.common.batch import Batch
from salus.common.class_losses.base import ClassLoss
from salus.common.optional_torch import torch

OTHER = "label.other"
SHARE = "label.share"
COUNTS = "label.counts"  # of the site's training items, see `class_losses.site_calibrated`


def mixed(batch: Batch, inputs: str, alpha: float, generator: torch.Generator) -> Batch:
    """Return a batch in which each item is mixed with another one, or itself, of the same batch.

    Args:
        inputs: name of the field that is mixed; it and the field ``label`` are needed.
        alpha: of the Beta distribution of the shares; each item has its own share, at least one half its own.
    """
    count, device = len(batch), batch.device
    partner = torch.randperm(count, generator=generator).to(device)
    share = _beta(count, alpha, generator).to(batch[inputs])
    wide = share.reshape(-1, *[1] * (batch[inputs].dim() - 1))
    values = wide * batch[inputs] + (1 - wide) * batch[inputs][partner]
    return Batch({**batch.fields, inputs: values, OTHER: batch["label"][partner], SHARE: share})


def _beta(count: int, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """Return draws of Beta(alpha, alpha), the larger of each share and its rest, float64 ``[count]``."""
    rates = torch.full((2, count), alpha, dtype=torch.float64)
    draws = torch._standard_gamma(rates, generator=generator).clamp(min=1e-300)
    share = draws[0] / draws.sum(dim=0)
    return torch.maximum(share, 1 - share)


def mixed_losses(loss: ClassLoss, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return each item's loss: of its label, or of both labels by their shares where items are mixed."""
    counts = batch.fields.get(COUNTS)
    losses = loss(logits, batch["label"], counts)
    if OTHER not in batch:
        return losses
    share = batch[SHARE].to(losses)
    return share * losses + (1 - share) * loss(logits, batch[OTHER], counts)
