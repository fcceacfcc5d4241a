"""How boxes would have to be moved, for tests that make a detector's right outputs."""

import torch


def moves_between(near: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return how each box is moved to another: centre in its sizes, size as a logarithm, ``[..., 2 dims]``.

    Args:
        near, wanted: ``[..., 2 dims]``, low and high corners, which broadcast.
    """
    dims = near.shape[-1] // 2
    (low, high), (start, end) = torch.split(near, dims, dim=-1), torch.split(wanted, dims, dim=-1)
    size = (high - low).clamp(min=1e-3)  # boxes that only fill up have none
    return torch.cat(
        [((start + end) / 2 - (low + high) / 2) / size, ((end - start).clamp(min=1e-3) / size).log()], dim=-1
    )
