"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), by MONAI; for segmentation as Vinogradova, Dibrov and Myers 2020 do.

The layer is not the last one but the last of those whose grid is still fine enough to show a lesion.
"""

import copy
from typing import Annotated

import torch
from monai.visualize.class_activation_maps import GradCAM
from pydantic import Field
from torch import nn

from salus.client.explaining.layers import spatial_layer
from salus.client.explaining.subject import Score, Subject, no_gradient
from salus.common.strict import Strict


class GradCam:
    """The channels of a layer, weighted by their mean gradient, where they speak for the score."""

    title = "Grad-CAM"

    class Settings(Strict):
        """Settings of `grad-cam`.

        Args:
            layer: Name of the layer in the network; empty chooses it by `least_side`.
            least_side: Places along each axis that the layer's grid must have.
        """

        layer: Annotated[str, Field(max_length=200)] = ""
        least_side: Annotated[int, Field(ge=2, le=512)] = 8  # a place is an eighth of the image

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def unfit(self, subject: Subject) -> str:
        """Return that there are no gradients, or no layer that keeps the places of an image apart."""
        if no_gradient(subject):
            return no_gradient(subject)
        if subject.is_row:
            return "the input is a row of columns, and no layer has a grid of places"
        if not self._layer(subject):
            wanted = f" named {self._settings.layer!r}" if self._settings.layer else ""
            return f"the network has no layer{wanted} that keeps the places of the image apart"
        return ""

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the map, at least 0, brought to the size of the image by interpolation."""
        # MONAI leaves its hooks in the network, so it gets a copy.
        model = _Classes(copy.deepcopy(subject.score))
        found = GradCAM(
            nn_module=model, target_layers=f"score.network.{self._layer(subject)}", postprocessing=lambda raw: raw
        )(subject.inputs, class_idx=0)
        return torch.nan_to_num(torch.as_tensor(found).detach().float().cpu()[0, 0], 0.0, 0.0, 0.0)

    def _layer(self, subject: Subject) -> str:
        network = subject.score.network
        assert network is not None  # Safe because `unfit` has looked.
        if self._settings.layer:
            names = {name for name, layer in network.named_modules() if not list(layer.children())}
            return self._settings.layer if self._settings.layer in names else ""
        return spatial_layer(network, subject.inputs, self._settings.least_side)


class _Classes(nn.Module):
    """A score as the one class of a classifier, which MONAI expects."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[items, 1]``."""
        found: torch.Tensor = self.score(inputs)
        return found[:, None]
