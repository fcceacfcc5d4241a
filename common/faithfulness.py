"""How faithful the explanations of a classifier are, as a few numbers from 0 to 1 of each image, which add up over sites.

The map is that of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) for the predicted class, from a picture of
the image's mean grey value; the numbers are the areas of deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421) and the
likeness to the map of a network with random weights (Adebayo et al. 2018, arXiv 1810.03292). Nothing is drawn, and the numbers
of an image depend on that image only. Needs no package beside torch.
"""

from salus.common.optional_torch import functional, nn, torch

MEASURES = ("deletion", "insertion", "random_weights")
PART = 16  # images at once: their gradients need the memory of a step of training
SMOOTHED = 3  # pixels; single pixels say little


def measured(
    model: nn.Module, random: nn.Module, images: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits ``[items, classes]`` and the numbers `MEASURES` of each image, float32 ``[items, 3]``.

    Works within ``torch.inference_mode`` as well.

    Args:
        random: a network of the same form with random weights.
        images: ``[items, channels, *spatial]``.
        steps: of the way from the empty picture, and points of a curve.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        parts = [_part(model, random, part.clone(), steps) for part in torch.split(images, PART)]
    return torch.cat([logits for logits, _ in parts]), torch.cat([numbers for _, numbers in parts])


def _part(model: nn.Module, random: nn.Module, images: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits: torch.Tensor = model(images).float()
    place = logits.argmax(dim=1)
    empty = images.mean(dim=tuple(range(2, images.dim())), keepdim=True).expand_as(images)
    own, other = (_map(network, images, empty, place, steps) for network in (model, random))
    order = _ranks(own).reshape(len(images), 1, *images.shape[2:])
    areas = [_area(model, start, end, order, place, steps) for start, end in ((images, empty), (empty, images))]
    numbers = torch.stack([*areas, likeness(own.abs(), other.abs())], dim=1)
    return logits, torch.nan_to_num(numbers, 0.0, 0.0, 0.0).clamp(0, 1)


def log_odds(logits: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the log-odds of each item's class against all others, ``[items]``."""
    chosen = functional.one_hot(place, logits.shape[1]).bool()
    others = logits.masked_fill(chosen, float("-inf"))
    return logits.gather(1, place[:, None])[:, 0] - torch.logsumexp(others, dim=1)


def _map(model: nn.Module, images: torch.Tensor, empty: torch.Tensor, place: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the smoothed attributions ``[items, pixels]``, by the midpoint rule."""
    total = torch.zeros_like(images)
    for step in range(steps):
        at = (empty + (step + 0.5) / steps * (images - empty)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(log_odds(model(at).float(), place).sum(), at)
        total += gradient / steps
    found = ((images - empty) * total).sum(dim=1, keepdim=True)
    pool = functional.avg_pool2d if images.dim() == 4 else functional.avg_pool3d
    smooth: torch.Tensor = pool(found, SMOOTHED, stride=1, padding=SMOOTHED // 2, count_include_pad=False)
    return torch.nan_to_num(smooth.flatten(1), 0.0, 0.0, 0.0)


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the place of each value of ``[items, values]`` in its row's order, the largest first."""
    return values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _shared_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the places of `_ranks` upwards, float64, where equal values share the mean of theirs.

    Otherwise two maps that are 0 at the same pixels would be alike there for the order of the pixels alone.
    """
    ordered = values.contiguous().sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (below + upto - 1).double() / 2


def _area(
    model: nn.Module, start: torch.Tensor, end: torch.Tensor, order: torch.Tensor, place: torch.Tensor, steps: int
) -> torch.Tensor:
    """Return the area under the class's probability while pixels change from `start` to `end` in their order, ``[items]``."""
    pixels, shares = order[0].numel(), []
    with torch.no_grad():
        for step in range(steps + 1):
            moved = torch.where(order < pixels * step / steps, end, start)
            shares.append(torch.sigmoid(log_odds(model(moved).float(), place)))
    curve = torch.stack(shares)
    return (curve[:-1] + curve[1:]).sum(dim=0) / (2 * steps)


def likeness(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the rank correlation of each pair of rows ``[items, values]``, at least 0; 0 where a row is the same everywhere."""
    ranks = [_shared_ranks(values) for values in (one, other)]
    centred = [values - values.mean(dim=1, keepdim=True) for values in ranks]
    found = (centred[0] * centred[1]).sum(dim=1) / (centred[0].norm(dim=1) * centred[1].norm(dim=1)).clamp(min=1e-12)
    flat = torch.stack([values.amax(dim=1) == values.amin(dim=1) for values in (one, other)]).any(dim=0)
    result: torch.Tensor = found.masked_fill(flat, 0.0).clamp(min=0).float()
    return result
