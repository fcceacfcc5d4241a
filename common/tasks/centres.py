"""Objects as centres: what a network is to say at every pixel, its loss, and how pixels become objects.

A network gives four maps for each picture: the logits of being near an object's centre and of belonging to an object, and the
distance down and right to the centre of the pixel's object. So pixels that touch belong to different objects if they point to
different centres (Cheng et al. 2020, arXiv 1911.10194; Zhou et al. 2019, arXiv 1904.07850).
"""

from salus.common.job import TaskSettings
from salus.common.models.object_masks import kept_objects
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch

MAPS = 4
REACH = 16.0  # pixels; distances are in this unit, so that all parts of the loss are of one size
SHARPNESS = 0.3  # width of the peak at a centre, as a share of the object's radius
CENTRE_WEIGHT, DISTANCE_WEIGHT = 4.0, 1.0  # few pixels are near a centre
WINDOW = 5  # pixels of the square in which a centre is the largest
HALF = 0.5


def pixels(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Return the row and column of every pixel, ``[2, rows * columns]``, with the type of `like`."""
    y = torch.arange(rows, device=like.device, dtype=like.dtype)
    x = torch.arange(columns, device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)


def wanted_maps(numbers: torch.Tensor, most: int, like: torch.Tensor) -> torch.Tensor:
    """Return what a network should say, ``[pictures, 4, rows, columns]``: centre and object from 0 to 1, distances.

    Args:
        numbers: int64 ``[pictures, rows, columns]``, 0 for background, objects from 1 to `most`.
    """
    count, rows, columns = numbers.shape
    place = pixels(rows, columns, like)
    flat = numbers.flatten(1)
    empty = torch.zeros(count, most + 1, device=like.device, dtype=like.dtype)
    area = empty.scatter_add(1, flat, torch.ones_like(flat, dtype=like.dtype)).clamp(min=1)
    sums = [empty.scatter_add(1, flat, axis.expand(count, -1)) for axis in place]
    away = torch.stack([(one / area).gather(1, flat) - axis for one, axis in zip(sums, place, strict=True)], dim=1)
    spread = (SHARPNESS**2 * area / torch.pi).clamp(min=1).gather(1, flat)
    inside = (flat > 0).to(like)
    near = torch.exp(-(away**2).sum(dim=1) / (2 * spread)) * inside
    found = torch.cat([near[:, None], inside[:, None], away / REACH * inside[:, None]], dim=1)
    return found.reshape(count, MAPS, rows, columns)


def map_losses(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the loss of each picture, ``[pictures]``; distances count within objects only."""
    both = F.binary_cross_entropy_with_logits(outputs[:, :2], wanted[:, :2], reduction="none").flatten(2)
    inside = wanted[:, 1:2]
    away = (F.smooth_l1_loss(outputs[:, 2:], wanted[:, 2:], reduction="none", beta=0.1) * inside).flatten(1).sum(dim=1)
    distance = away / inside.flatten(1).sum(dim=1).clamp(min=1)
    centre = both[:, 0].sum(dim=1) / wanted[:, 0].flatten(1).sum(dim=1).clamp(min=1)
    return CENTRE_WEIGHT / 4 * centre + both[:, 1].mean(dim=1) + DISTANCE_WEIGHT * distance


def grouped(outputs: torch.Tensor, most: int, least_score: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the objects of one picture: numbers int64 ``[rows, columns]``, 0 for background, and the score of each from 1 on.

    Args:
        outputs: a network's maps ``[4, rows, columns]``.
        most: objects at most; those with the best centres are kept.
        least_score: smallest score of a centre, 0 .. 1.
    """
    outputs = torch.nan_to_num(outputs.detach().float().cpu())
    centre, inside = torch.sigmoid(outputs[:2])
    peak = F.max_pool2d(centre[None], WINDOW, 1, WINDOW // 2)[0] == centre
    flat = torch.where(peak & (centre >= least_score) & (inside > HALF), centre, 0.0).flatten()
    scores, places = flat.topk(min(most, flat.numel()))
    places = places[scores > 0]
    numbers = torch.zeros(centre.shape, dtype=torch.int64)
    if not len(places):
        return numbers, torch.zeros(0)
    where = pixels(centre.shape[0], centre.shape[1], outputs)
    mine = (inside > HALF).flatten()
    pointed = (where + REACH * outputs[2:].flatten(1))[:, mine]
    numbers.view(-1)[mine] = 1 + torch.cdist(pointed.T, where[:, places].T).argmin(dim=1)
    return kept_objects(numbers, centre.flatten()[places])


class CentreMaps:
    """The meaning of a network's four maps, see `models.object_masks.ObjectMasks`."""

    def __init__(self, task: TaskSettings) -> None:
        """Nothing of the job changes what the maps mean."""

    def losses(self, outputs: torch.Tensor, numbers: torch.Tensor, most: int) -> torch.Tensor:
        """Return the loss of each picture."""
        return map_losses(outputs, wanted_maps(numbers, most, outputs))

    def objects(self, outputs: torch.Tensor, most: int, least_score: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the objects of one picture, as `grouped`."""
        return grouped(outputs, most, least_score)


def overlaps(found: torch.Tensor, true: torch.Tensor, counts: tuple[int, int]) -> torch.Tensor:
    """Return the intersection over union of every found and every true object, float64 ``[found, true]``.

    Args:
        found, true: numbers of objects, of one shape.
        counts: of found and of true objects.
    """
    size = counts[1] + 1
    table = torch.bincount((found * size + true).flatten(), minlength=(counts[0] + 1) * size).double()
    table = table.reshape(counts[0] + 1, size)
    either = table.sum(dim=1, keepdim=True) + table.sum(dim=0, keepdim=True) - table
    return (table / either.clamp(min=1))[1:, 1:]
