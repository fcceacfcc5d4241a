"""Classification of images whose evaluation also says how faithful the model's explanations are, over all sites.

Training is that of `classification`, to the last bit. In each evaluation, every validation image adds three numbers from 0 to 1
(`faithfulness.MEASURES`) to the protected sum, so nobody sees the maps or numbers of a patient or, with a sum over enough sites,
of a site.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field as Key

from salus.common.batch import Batch
from salus.common.estimates import Metric
from salus.common.faithfulness import MEASURES, measured
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.metrics.mean_share import NORM_L2, mean_of
from salus.common.models import build_model
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Said, Step, Totals, finite, full
from salus.common.tasks.classification import Classification, LabelSettings
from salus.common.tasks.mixing import mixed_losses

RANDOM_SEED = 2_147_483  # of the network with random weights, which is compared with; public and always the same
OWN = 1 + len(MEASURES)
OWN_NORM = math.sqrt(OWN)  # of [1, measures], each at most 1
BOTH = math.sqrt(2)  # of two rows of norm 1 side by side
TYPICAL = (0.4, 0.8, 0.2)  # of a fair model, to predict how exact an evaluation will be


class ExplainedSettings(LabelSettings):
    """Settings of `explained-classification`, beside those of `classification`.

    Args:
        explained_steps: Steps of integrated gradients, and points of each curve; an image takes five passes for each.
    """

    explained_steps: Annotated[int, Key(ge=2, le=64)] = 8


class ExplainedClassification(Classification):
    """One label per image, with the faithfulness of its explanation."""

    Settings: type[TaskSettings] = ExplainedSettings
    headline: Sequence[str] = ("auc", "accuracy", *MEASURES)

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self._steps = settings_of(settings, ExplainedSettings).explained_steps
        self._random: torch.nn.Module | None = None

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return the losses of `classification`; nothing is explained in training."""
        return mixed_losses(self.loss, full(super().infer(model, batch)), batch)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits and `MEASURES`, ``[items, classes + 3]``."""
        images = batch[self.input]
        with torch.inference_mode(mode=False):  # its parameters take part in gradients
            if self._random is None:
                self._random = build_model(self.settings, RANDOM_SEED).eval()
            random = self._random.to(images.device)
        logits, numbers = measured(model, random, images, self._steps)
        return torch.cat([logits, numbers.to(logits)], dim=1)

    def said(self, outputs: torch.Tensor) -> Said:
        """Return the most probable class, with the probability of each."""
        return super().said(outputs[: self.classes])

    @property
    def statistics_size(self) -> int:
        return super().statistics_size + len(MEASURES)

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the rows of `classification`, and `MEASURES`."""
        logits, numbers = self._parts_of(outputs)
        return torch.cat([super().rows(logits, batch), numbers], dim=1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the metrics of `classification`, and the mean of each of `MEASURES`."""
        plain, own = np.split(totals, [-len(MEASURES)])
        found = super().metrics(plain)
        return {**found, **{name: float(v / totals[0]) for name, v in zip(MEASURES, own, strict=True)}} if found else {}

    def figures(self, totals: Totals) -> Figures:
        """Return the figures of `classification`."""
        return super().figures(totals[: -len(MEASURES)])

    @property
    def private_statistics_size(self) -> int:
        return super().private_statistics_size + OWN

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the private rows of `classification` and ``[1, measures]``, side by side with a norm of at most 1."""
        logits, numbers = self._parts_of(outputs)
        own = torch.cat([torch.ones(len(numbers), 1, dtype=torch.float64), numbers], dim=1) / OWN_NORM
        return torch.cat([super().private_rows(logits, batch), own], dim=1) / BOTH

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of `classification`, and the mean of each of `MEASURES` with its error."""
        plain, own = np.split(totals * BOTH, [-OWN])
        scale = OWN_NORM / NORM_L2
        means = {
            name: mean_of(np.array([own[0], value]) * scale, noise_sd * BOTH * scale)
            for name, value in zip(MEASURES, own[1:], strict=True)
        }
        return {**super().private_metrics(plain, noise_sd * BOTH), **means}

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the figures of `classification`."""
        return super().private_figures(totals[:-OWN] * BOTH, noise_sd * BOTH)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with an area of 0.90 and fair explanations."""
        found: Mapping[str, Metric] = super().foretold(patients, noise_sd * BOTH)
        scale = OWN_NORM / NORM_L2
        own = np.array([1.0, *TYPICAL]) * patients / OWN_NORM
        means = {
            name: mean_of(np.array([own[0], value]) * scale, noise_sd * BOTH * scale)
            for name, value in zip(MEASURES, own[1:], strict=True)
        }
        return {**found, **means}

    def _parts_of(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and `MEASURES` within 0 .. 1, float64 on the CPU."""
        logits, numbers = torch.split(outputs, [self.classes, len(MEASURES)], dim=1)
        return logits, finite(numbers).clamp(0, 1)
