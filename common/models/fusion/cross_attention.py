"""Fusion by attention: a learned question looks at parts of the image, columns of the row and words (Vaswani et al. 2017).

Every part is one token; absent ones get no weight. Attention is made of linear layers, so that patients are clipped fast.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.fusion.encoders import FusionModelSettings, ImageMap, by_modality, check_task, pooled
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.tasks.encoding import row_width

IMAGE_SIDE, VOLUME_SIDE = 4, 2  # parts of an image along each side
UNSEEN = -1e9  # score of a token that is not there


class CrossAttentionSettings(FusionModelSettings):
    """Settings of the fusion by attention.

    Args:
        heads: Attention heads.
        layers: How often the question looks at the tokens.
    """

    heads: Annotated[int, Field(ge=1, le=8)] = 4
    layers: Annotated[int, Field(ge=1, le=8)] = 2


class Looking(nn.Module):
    """One look of the question at all tokens, and a small network behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.question, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, state: torch.Tensor, tokens: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return the question's next state, ``[items, 1, width]``."""
        query = self._split(self.question(self.first(state)))
        keys, values = self._split(self.keys(tokens)), self._split(self.values(tokens))
        scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = torch.softmax(scores + UNSEEN * (1 - there[:, None, None, :]), dim=-1)
        seen = (weights @ values).transpose(1, 2).flatten(2)
        state = state + self.out(seen)
        result: torch.Tensor = state + self.narrow(torch.relu(self.wide(self.second(state))))
        return result

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``[items, heads, tokens, width / heads]``."""
        items, count, width = tokens.shape
        return tokens.reshape(items, count, self.heads, width // self.heads).transpose(1, 2)


class CrossAttention(nn.Module):
    """The network."""

    def __init__(self, task: TaskSettings, own: CrossAttentionSettings) -> None:
        super().__init__()
        fusion, width = check_task(task), own.feature_width
        self.names = tuple(fusion.modalities_in_order)
        self.kinds = nn.Embedding(len(self.names) + 1, width)  # of a modality; the last one is the question
        if "image" in self.names:
            self.side = IMAGE_SIDE if len(task.shape) == 2 else VOLUME_SIDE
            self.image = ImageMap(task, width)
            self.places = nn.Embedding(self.side ** len(task.shape), width)
        if "row" in self.names:
            self.columns = row_width(task.columns)
            self.slopes, self.offsets = nn.Embedding(self.columns, width), nn.Embedding(self.columns, width)
        if "text" in self.names:
            self.text = nn.Embedding(fusion.vocabulary, width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.looks = nn.ModuleList(Looking(width, own.heads) for _ in range(own.layers))
        self.head = nn.Linear(width, len(task.classes))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        kinds = self.kinds(_numbers(given[0], len(self.names) + 1))
        tokens, there = [kinds[:, -1:]], [given[1].new_ones(len(given[0]), 1)]
        for place, (name, values, marks) in enumerate(by_modality(self.names, given)):
            found, present = self._tokens(name, values, marks)
            tokens.append((found + kinds[:, place : place + 1]) * present[..., None])
            there.append(present)
        every, marked = self.norm(torch.cat(tokens, dim=1)), torch.cat(there, dim=1)
        state = every[:, :1]
        for look in self.looks:
            state = look(state, every, marked)
        result: torch.Tensor = self.head(self.last(state[:, 0]))
        return result

    def _tokens(self, name: str, values: torch.Tensor, marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a modality's tokens ``[items, tokens, width]``, and which are there."""
        if name == "text":
            return self.text(values), marks
        if name == "row":
            numbers = _numbers(values, self.columns)
            found = values[..., None] * self.slopes(numbers) + self.offsets(numbers)
        else:
            parts = pooled(self.image(values), self.side).flatten(2).transpose(1, 2)
            found = parts + self.places(_numbers(values, parts.shape[1]))
        return found, marks.expand(-1, found.shape[1])


def _numbers(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return 0, 1, ... ``count - 1`` for each item, so that a parameter belongs to a layer that is run for each item."""
    return torch.arange(count, device=values.device).expand(len(values), count)


@with_settings(CrossAttentionSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network.

    Raises:
        JobError: another kind of task.
        ValueError: heads that do not divide feature_width.
    """
    own = settings_of(task, CrossAttentionSettings)
    if own.feature_width % own.heads:
        raise ValueError("expected heads that divide feature_width")
    return CrossAttention(task, own)
