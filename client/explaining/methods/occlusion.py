"""Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901), by captum: how the score falls where a window shows nothing."""

from typing import Annotated

import torch
from pydantic import Field

from salus.client.explaining.cells import window_of
from salus.client.explaining.subject import Subject, over_channels
from salus.common.extras import required
from salus.common.strict import Strict


class Occlusion:
    """The fall of the score for each window, the mean over the windows that cover a pixel."""

    title = "Occlusion"

    class Settings(Strict):
        """Settings of `occlusion`.

        Args:
            windows: Windows along the side of a picture; fewer along that of a volume. Neighbours overlap by half.
        """

        windows: Annotated[int, Field(ge=2, le=64)] = 8  # 225 passes for a picture; a lesion fills about one window

    def __init__(self, settings: Settings) -> None:
        self._windows = settings.windows
        self._captum = required("captum.attr", extra="explain", what='The method "occlusion"')

    def unfit(self, subject: Subject) -> str:
        """Return nothing: every model has a score."""
        return ""

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return the falls; of a row, of each column switched to the site's mean."""
        with torch.no_grad():
            if subject.is_row:
                return self._columns(subject)
            window, steps = window_of(subject, self._windows)
            found = self._captum.Occlusion(subject.score).attribute(
                subject.inputs, window, steps, subject.empty, perturbations_per_eval=subject.at_once
            )
        # captum counts a fall once for each channel that the window covers
        return over_channels(found) / subject.inputs.shape[1]

    def _columns(self, subject: Subject) -> torch.Tensor:
        groups = torch.tensor(subject.groups)
        count = int(groups.max()) + 1
        hidden = groups[None] == torch.arange(count)[:, None]
        falls = subject.scores(subject.inputs) - subject.scores(torch.where(hidden, subject.empty, subject.inputs))
        size = torch.bincount(groups, minlength=count)
        return (falls / size)[groups]
