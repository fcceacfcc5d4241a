"""Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365), by captum.

The attributions add up to the score of the input less that of the empty input (completeness), but for the error of the steps.
"""

from typing import Annotated

import torch
from pydantic import Field

from salus.client.explaining.subject import Subject, no_gradient, over_channels
from salus.common.extras import required
from salus.common.strict import Strict


class IntegratedGradients:
    """The mean gradient on the way from the empty input, times the way."""

    title = "Integrated gradients"

    class Settings(Strict):
        """Settings of `integrated-gradients`.

        Args:
            steps: Points on the way from the empty input to the image.
        """

        steps: Annotated[int, Field(ge=2, le=500)] = 32  # an error of about a hundredth of the score for small networks

    def __init__(self, settings: Settings) -> None:
        self._steps = settings.steps
        self._captum = required("captum.attr", extra="explain", what='The method "integrated-gradients"')

    def unfit(self, subject: Subject) -> str:
        """Return that a model from sums has no gradient."""
        return no_gradient(subject)

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the attributions, summed over channels."""
        found = self._captum.IntegratedGradients(subject.score).attribute(
            subject.inputs, subject.empty, n_steps=self._steps, internal_batch_size=subject.at_once
        )
        return over_channels(found)
