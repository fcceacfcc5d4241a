"""Recurrent networks over images: GRU (Cho et al. 2014, arXiv 1406.1078) and LSTM (Hochreiter and Schmidhuber 1997).

They are built from linear layers, because torch's own hide their steps from per-patient gradients. The part of a layer that
depends on the input runs once for all images, the recurrent part once for each. What is not there leaves the state as it is.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.sequence.frames import EncoderSettings, Frames
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings


class RecurrentSettings(EncoderSettings):
    """Settings of the recurrent networks.

    Args:
        state_width: Numbers that the network remembers from image to image.
    """

    plugins = EncoderSettings.plugins  # a section looks at a class's own attributes only

    state_width: Annotated[int, Field(ge=4, le=512)] = 32  # as many as describe an image


class GRU(nn.Module):
    """A gated recurrent unit, ``[items, frames, width]`` to the last state ``[items, state]``; with torch's form of the gates."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.given, self.kept, self.state = nn.Linear(width, 3 * state), nn.Linear(state, 3 * state), state

    def forward(self, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return the state after the last image that is there."""
        hidden = vectors.new_zeros(len(vectors), self.state)
        for given, mark in zip(self.given(vectors).unbind(1), there.unbind(1), strict=True):
            (reset, update, new), (kept_reset, kept_update, kept_new) = given.chunk(3, 1), self.kept(hidden).chunk(3, 1)
            share = torch.sigmoid(update + kept_update)
            candidate = torch.tanh(new + torch.sigmoid(reset + kept_reset) * kept_new)
            after = share * hidden + (1 - share) * candidate
            hidden = torch.where(mark[:, None] > 0, after, hidden)
        return hidden


class LSTM(nn.Module):
    """Long short-term memory, ``[items, frames, width]`` to the last output ``[items, state]``."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.given, self.kept, self.state = nn.Linear(width, 4 * state), nn.Linear(state, 4 * state, bias=False), state
        with torch.no_grad():
            self.given.bias[state : 2 * state].fill_(1.0)  # remember at first (Jozefowicz et al. 2015)

    def forward(self, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return the output after the last image that is there."""
        hidden = cell = vectors.new_zeros(len(vectors), self.state)
        for given, mark in zip(self.given(vectors).unbind(1), there.unbind(1), strict=True):
            enter, forget, new, out = (given + self.kept(hidden)).chunk(4, 1)
            after = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            real = mark[:, None] > 0
            hidden = torch.where(real, torch.sigmoid(out) * torch.tanh(after), hidden)
            cell = torch.where(real, after, cell)
        return hidden


class Recurrent(nn.Module):
    """An encoder of each image, a recurrent unit and a linear layer."""

    def __init__(self, task: TaskSettings, kind: type[GRU] | type[LSTM]) -> None:
        super().__init__()
        own = settings_of(task, RecurrentSettings)
        self.frames = Frames(task, own)
        self.unit = kind(own.feature_width, own.state_width)
        self.head = nn.Linear(own.state_width, len(task.classes))

    def forward(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        logits: torch.Tensor = self.head(self.unit(self.frames(images, there), there))
        return logits


@with_settings(RecurrentSettings)
def build_gru(task: TaskSettings) -> nn.Module:
    """Return a network with a GRU; raises JobError for another kind of task."""
    return Recurrent(task, GRU)


@with_settings(RecurrentSettings)
def build_lstm(task: TaskSettings) -> nn.Module:
    """Return a network with an LSTM; raises JobError for another kind of task."""
    return Recurrent(task, LSTM)
