"""A transformer over images (Vaswani et al. 2017, arXiv 1706.03762), with norms before each part; from linear layers."""

from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.sequence.frames import UNSEEN, EncoderSettings, Frames, check_task, places
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings


class SequenceTransformerSettings(EncoderSettings):
    """Settings of the transformer over images.

    Args:
        attention_heads: Attention heads; they divide `feature_width`.
        attention_blocks: Blocks, each of which lets every image see all others.
    """

    plugins = EncoderSettings.plugins  # a section looks at a class's own attributes only

    attention_heads: Annotated[int, Field(ge=1, le=16)] = 4
    attention_blocks: Annotated[int, Field(ge=1, le=12)] = 2  # few images need few


class Block(nn.Module):
    """Self-attention between the images that are there, and a small network for each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return vectors ``[items, frames, width]``."""
        items, frames, width = vectors.shape
        split = self.mixed(self.first(vectors)).reshape(items, frames, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.mT / query.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(there[:, None, None, :] == 0, UNSEEN), dim=-1)
        vectors = vectors + self.out((weights @ value).transpose(1, 2).flatten(2))
        result: torch.Tensor = vectors + self.narrow(torch.relu(self.wide(self.second(vectors))))
        return result


class Transformer(nn.Module):
    """An encoder of each image, a learned vector for each place in the sequence, blocks, and the mean of what is there."""

    def __init__(self, task: TaskSettings, own: SequenceTransformerSettings) -> None:
        super().__init__()
        width = own.feature_width
        self.frames = Frames(task, own)
        self.positions = nn.Embedding(check_task(task).frames, width)
        self.blocks = nn.ModuleList(Block(width, own.attention_heads) for _ in range(own.attention_blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(task.classes))

    def forward(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        vectors = self.frames(images, there) + self.positions(places(there)) * there[..., None]
        for block in self.blocks:
            vectors = block(vectors, there)
        total = (self.norm(vectors) * there[..., None]).sum(dim=1)
        logits: torch.Tensor = self.head(total / there.sum(dim=1, keepdim=True).clamp(min=1))
        return logits


@with_settings(SequenceTransformerSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task, or heads that do not divide the width."""
    own = settings_of(task, SequenceTransformerSettings)
    if own.feature_width % own.attention_heads:
        raise JobError(
            f"Expected attention_heads that divide {own.feature_width}, got {own.attention_heads}.",
            remedy="Correct task.attention_heads or task.feature_width.",
        )
    return Transformer(task, own)
