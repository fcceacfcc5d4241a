"""Settings of tasks with class labels against imbalance, and which of them couple patients."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from salus.common.errors import JobError
from salus.common.strict import Strict

COUPLING = "each patient's influence would depend on the labels of the site's other patients"


class ImbalanceSettings(Strict):
    """What tasks with class labels do about classes of unequal size; by default nothing.

    Args:
        class_loss: What training minimises: `cross-entropy`, `focal`, `class-balanced`, `logit-adjusted` or `site-calibrated`.
        sampling: How a site draws its items without noise: each once in an epoch (`shuffled`), each class as often as any
            other (`balanced`), or in proportion to the loss at the start of the epoch (`hard`).
        mixup: Parameter of the Beta distribution of the shares in which two items are mixed (Zhang et al. 2018, arXiv
            1710.09412); 0 for none. With noise, the two are of one patient.
    """

    class_loss: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "cross-entropy"  # as jobs of before
    sampling: Literal["shuffled", "balanced", "hard"] = "shuffled"  # as jobs of before
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0  # the paper uses 0.1 to 0.4

    def coupled(self) -> Mapping[str, str]:
        """Return the settings for which one patient's influence on a site's update has no bound, with the reason."""
        from salus.common.class_losses import CLASS_LOSSES  # it imports the sections of a job

        found = {} if self.sampling == "shuffled" else {"sampling": COUPLING}
        of_site = getattr(CLASS_LOSSES.get(self.class_loss, error=JobError), "of_site", False)
        return found | ({"class_loss": COUPLING} if of_site else {})
