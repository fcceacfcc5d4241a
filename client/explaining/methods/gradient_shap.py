"""Gradient SHAP (Lundberg and Lee 2017, arXiv 1705.07874; expected gradients, Erion et al. 2021), by captum.

Like integrated gradients, from other images of the site in place of an empty one, at random points of the way.
"""

from typing import Annotated

import torch
from pydantic import Field

from salus.client.explaining.subject import Subject, drawing, no_gradient, over_channels
from salus.common.extras import required
from salus.common.strict import Strict


class GradientShap:
    """The expectation of gradient times difference over the site's other inputs."""

    title = "Gradient SHAP"

    class Settings(Strict):
        """Settings of `gradient-shap`.

        Args:
            samples: Draws of another input and of a point on the way from it.
        """

        samples: Annotated[int, Field(ge=2, le=1000)] = 64

    def __init__(self, settings: Settings) -> None:
        self._samples = settings.samples
        self._captum = required("captum.attr", extra="explain", what='The method "gradient-shap"')

    def unfit(self, subject: Subject) -> str:
        """Return that a model from sums has no gradient."""
        return no_gradient(subject)

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the attributions, summed over channels; a few samples at a time, so that memory is bounded."""
        method, total, left = self._captum.GradientShap(subject.score), torch.zeros(()), self._samples
        with drawing(subject.seed):
            while left > 0:
                count = min(left, subject.at_once)
                found = method.attribute(subject.inputs, subject.others, n_samples=count)
                total, left = total + count * found.detach(), left - count
        return over_channels(total / self._samples)
