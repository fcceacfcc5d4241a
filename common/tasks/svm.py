"""A support vector machine: a linear model with the hinge loss, one machine for each class against the rest.

Cortes and Vapnik 1995 (Machine Learning 20(3)). The margin's penalty is ``training.weight_decay``. With the model
`random-features` it is a kernel machine.
"""

from salus.common.batch import Batch
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.tasks.base import Step, full
from salus.common.tasks.classification import ClassificationSettings
from salus.common.tasks.tabular import ImagesOrRows


class Svm(ImagesOrRows):
    """One label per image or row; the classification with another loss.

    The probabilities of its metrics and predictions are the softmax of the scores: they are ranked rightly but not calibrated.
    """

    Settings = ClassificationSettings

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's sum over classes of ``max(0, 1 - side * score)``, weighted by its class."""
        scores, labels = full(self.infer(model, batch)), batch["label"]
        sides = 2.0 * F.one_hot(labels, self.classes).to(scores) - 1.0
        return F.relu(1.0 - sides * scores).sum(dim=1) * self.weights.to(scores)[labels]
