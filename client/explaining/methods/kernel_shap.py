"""Kernel SHAP (Lundberg and Lee 2017, arXiv 1705.07874), by captum: Shapley values of the parts by weighted regression."""

from typing import Annotated

import torch
from pydantic import Field

from salus.client.explaining.cells import count_of, parts_of
from salus.client.explaining.methods.lime import shared
from salus.client.explaining.subject import Subject, drawing
from salus.common.extras import required
from salus.common.strict import Strict


class KernelShap:
    """An estimate of the Shapley value of each part, where a part that is absent shows nothing."""

    title = "Kernel SHAP"

    class Settings(Strict):
        """Settings of `kernel-shap`.

        Args:
            cells: Parts along the side of a picture; a volume has about as many in all.
            samples: Choices of parts that are tried; always at least four for each part.
        """

        cells: Annotated[int, Field(ge=2, le=32)] = 8
        samples: Annotated[int, Field(ge=16, le=20_000)] = 400

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._captum = required("captum.attr", extra="explain", what='The method "kernel-shap"')
        required("sklearn.linear_model", extra="explain", what='The method "kernel-shap"')

    def unfit(self, subject: Subject) -> str:
        """Return that one part alone has nothing to be compared with."""
        alone = subject.is_row and len(set(subject.groups)) < 2
        return "the model reads one column only, whose share is everything" if alone else ""

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the values of the parts, shared evenly among their pixels."""
        parts = parts_of(subject, self._settings.cells)
        with drawing(subject.seed), torch.no_grad():
            found = self._captum.KernelShap(subject.score).attribute(
                subject.inputs,
                subject.empty,
                feature_mask=parts,
                n_samples=max(self._settings.samples, 4 * count_of(parts)),
                perturbations_per_eval=subject.at_once,
            )
        return shared(found, parts, subject)
