"""What the losses of all detectors share: how far a box is off, and that small objects count as much as large ones."""

from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch

BOX_WEIGHT = 2.0  # of `box_errors` beside what an object is; as in DETR (Carion et al. 2020, arXiv 2005.12872)


def box_errors(found: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the generalised intersection over union, from 0 to 2, of boxes that broadcast, ``[...]``.

    Unlike an error of each number, it is that of the overlap by which boxes are judged, and still tells apart boxes that do not
    touch (Rezatofighi et al. 2019, arXiv 1902.09630).

    Args:
        found, boxes: ``[..., 2 dims]``, low and high corners.
    """
    dims = found.shape[-1] // 2
    low, high, wanted_low, wanted_high = found[..., :dims], found[..., dims:], boxes[..., :dims], boxes[..., dims:]
    shared = (torch.minimum(high, wanted_high) - torch.maximum(low, wanted_low)).clamp(min=0).prod(dim=-1)
    sizes = (high - low).clamp(min=0).prod(dim=-1) + (wanted_high - wanted_low).clamp(min=0).prod(dim=-1)
    union = (sizes - shared).clamp(min=1e-6)
    hull = (torch.maximum(high, wanted_high) - torch.minimum(low, wanted_low)).clamp(min=0).prod(dim=-1).clamp(min=1e-6)
    return 1 - shared / union + (hull - union).clamp(min=0) / hull


def shares(positive: torch.Tensor, which: torch.Tensor, most: int) -> torch.Tensor:
    """Return the weight of each anchor, ``[items, anchors]``: those of one object share the weight of one object.

    A large object has ten times the anchors of a small one, which would otherwise hardly be learned. Weights of an item sum to
    the number of its positive anchors, so that they do not change the scale of a loss that is divided by it.

    Args:
        positive: ``[items, anchors]``, which anchors have an object.
        which: ``[items, anchors]``, the number of that object, below `most`.
    """
    mine = F.one_hot(which, most).to(torch.get_default_dtype()) * positive[..., None]
    each = mine.sum(dim=1)  # anchors of each object
    objects = (each > 0).sum(dim=1).clamp(min=1)
    weights = (mine / each.clamp(min=1)[:, None]).sum(dim=2)
    return weights * (positive.sum(dim=1) / objects)[:, None]
