"""Losses of a segmentation by name. To add one: `common/losses/<name>.py` with a class like `Loss`, one test, one line below.

A package adds its own through the entry-point group ``salus.losses``; the settings of a loss stand in the job's section [task].
"""

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.losses.base import Loss
from salus.common.registry import Registry

LOSSES = Registry(
    "loss",
    "salus.losses",
    {
        "cross-entropy": "salus.common.losses.cross_entropy:CrossEntropy",
        "dice": "salus.common.losses.dice:Dice",
        "dice-ce": "salus.common.losses.dice_ce:DiceCrossEntropy",
        "focal": "salus.common.losses.focal:Focal",
        "generalised-dice": "salus.common.losses.generalised_dice:GeneralisedDice",
        "tversky": "salus.common.losses.tversky:Tversky",
    },
)


def make_loss(name: str, settings: TaskSettings) -> Loss:
    """Return a job's loss; raises JobError for an unknown name or settings that do not fit the job's structures."""
    loss: Loss = LOSSES.get(name, error=JobError)(settings)
    return loss
