"""Whether generated images are copies of training images, by their distances to training and to held-out images.

Without copying, training and held-out images are alike to a generated one, so its nearest real image is a training image as often
as these are among all real ones (the idea of Meehan, Chaudhuri and Dasgupta 2020, arXiv 2004.05675). That also holds for blurred
images, which are near to every real image. Patients are taken to have one image each. Distances are between pixels of images that
are averaged to few parts: a copy that was moved or turned is not found.
"""

from collections.abc import Mapping

from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch

LARGEST_SIDE = {2: 32, 3: 16}  # as for the scores of generation
NEAR = 0.05  # quantile of held-out images' distances to training images, below which a generated image is near
FEWEST = 20  # held-out images; a quantile of fewer says nothing
AT_ONCE = 256


def copying(generated: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> Mapping[str, float]:
    """Return how the generated images lie to real ones, each ``[images, channels, *spatial]``; at least `FEWEST` held-out ones.

    Returns:
        nearest_is_training: share of generated images whose nearest real image is a training image.
        expected: the same share without copying.
        standard_errors: their difference in standard errors; above 3 suggests copying.
        near: share of generated images whose nearest is a training image, nearer than all but `NEAR` of the held-out ones have
            one; blurred images may be near without being copies.
    """
    made, trained, held = (averaged(images).flatten(1) for images in (generated, training, held_out))
    real = torch.cat([trained, held])
    distances, places = _nearest(made, real)
    share = float((places < len(trained)).double().mean())
    expected = len(trained) / len(real)
    # Real images are exchangeable without copying, but a few of them may be the nearest to most generated ones: the variance of
    # a weighted mean of labels that are drawn without replacement.
    weights = torch.bincount(places, minlength=len(real)).double() / len(made)
    variance = expected * (1 - expected) * len(real) / (len(real) - 1) * float((weights**2).sum() - 1 / len(real))
    threshold = torch.quantile(_nearest(held, trained)[0], NEAR)
    near = (distances < threshold) & (places < len(trained))
    return {
        "nearest_is_training": share,
        "expected": expected,
        "standard_errors": (share - expected) / max(variance, 1e-12) ** 0.5,
        "near": float(near.double().mean()),
    }


def averaged(images: torch.Tensor) -> torch.Tensor:
    """Return images ``[images, channels, *spatial]`` averaged to at most `LARGEST_SIDE` parts a side; the same if done again."""
    spatial = images.dim() - 2
    sides = [min(side, LARGEST_SIDE[spatial]) for side in images.shape[2:]]
    pool = F.adaptive_avg_pool2d if spatial == 2 else F.adaptive_avg_pool3d
    pooled: torch.Tensor = pool(torch.nan_to_num(images.float()), sides)  # type: ignore[arg-type]
    return pooled


def _nearest(images: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each image's distance to the nearest of the others, and its place; a copy's distance is exactly 0."""
    parts = [
        torch.cdist(part, others, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for part in torch.split(images, AT_ONCE)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
