"""GroupNorm in place of BatchNorm (Wu and He 2018, arXiv 1803.08494): no statistics shared between patients."""

from salus.common.optional_torch import nn

GROUP_WIDTH = 8  # channels per group; divides the widths of the usual architectures


def group_norm(width: int, *, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a GroupNorm with groups of 8 channels where 8 divides the width, otherwise with one group."""
    return nn.GroupNorm(width // GROUP_WIDTH if width % GROUP_WIDTH == 0 else 1, width, eps=eps)


def with_group_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm inside `model`, in place, and return it; groups of 8 channels where 8 divides the width."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(model, name, group_norm(child.num_features, eps=child.eps))
        else:
            with_group_norm(child)
    return model
