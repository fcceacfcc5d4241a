"""LIME (Ribeiro, Singh and Guestrin 2016, arXiv 1602.04938), by captum: a sparse linear model near the input.

Parts are the cells of a grid and not superpixels, so that they do not depend on the image's own edges.
"""

from typing import Annotated

import torch
from pydantic import Field

from salus.client.explaining.cells import parts_of
from salus.client.explaining.subject import Subject, drawing, over_channels
from salus.common.extras import required
from salus.common.strict import Strict


class Lime:
    """The coefficient of each part in a lasso of the score over images in which random parts show nothing."""

    title = "LIME"

    class Settings(Strict):
        """Settings of `lime`.

        Args:
            cells: Parts along the side of a picture; a volume has about as many in all.
            samples: Images in which random parts are switched off.
            penalty: Of the lasso, in units of the score.
        """

        cells: Annotated[int, Field(ge=2, le=32)] = 8
        samples: Annotated[int, Field(ge=16, le=20_000)] = 400  # about six for each of the 64 parts
        penalty: Annotated[float, Field(ge=0, le=1e3)] = 0.01

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._captum = required("captum.attr", extra="explain", what='The method "lime"')
        required("sklearn.linear_model", extra="explain", what='The method "lime"')
        self._models = required("captum._utils.models.linear_model", extra="explain", what='The method "lime"')

    def unfit(self, subject: Subject) -> str:
        """Return nothing: every model has a score."""
        return ""

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the coefficients, equal within a part."""
        model = self._models.SkLearnLasso(alpha=self._settings.penalty)
        parts = parts_of(subject, self._settings.cells)
        with drawing(subject.seed), torch.no_grad():
            found = self._captum.Lime(subject.score, interpretable_model=model).attribute(
                subject.inputs,
                subject.empty,
                feature_mask=parts,
                n_samples=self._settings.samples,
                perturbations_per_eval=subject.at_once,
            )
        return shared(found, parts, subject)


def shared(found: torch.Tensor, parts: torch.Tensor, subject: Subject) -> torch.Tensor:
    """Return a map in which the values of a part are shared among its pixels, so that all add up to the parts' sum."""
    sizes = torch.bincount(parts.flatten())[parts].float()
    return over_channels(found / sizes) / (1 if subject.is_row else subject.inputs.shape[1])
