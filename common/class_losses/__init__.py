"""Losses of class labels by name.

To add one: `common/class_losses/<name>.py` with a class like `ClassLoss`, one test, one line below. A package adds its own by
the entry-point group ``salus.class_losses``; the settings of a loss stand in the job's section [task].
"""

from salus.common.class_losses.base import ClassLoss
from salus.common.errors import JobError
from salus.common.job_sections import TaskSettings
from salus.common.registry import Registry

CLASS_LOSSES = Registry(
    "loss of class labels",
    "salus.class_losses",
    {
        "class-balanced": "salus.common.class_losses.class_balanced:ClassBalanced",
        "cross-entropy": "salus.common.class_losses.cross_entropy:CrossEntropy",
        "focal": "salus.common.class_losses.focal:Focal",
        "logit-adjusted": "salus.common.class_losses.logit_adjusted:LogitAdjusted",
        "site-calibrated": "salus.common.class_losses.site_calibrated:SiteCalibrated",
    },
)


def make_class_loss(name: str, settings: TaskSettings) -> ClassLoss:
    """Return a job's loss; raises JobError for an unknown name or settings that do not fit the job's classes."""
    loss: ClassLoss = CLASS_LOSSES.get(name, error=JobError)(settings)
    return loss
