"""Networks for bags of images, whose order does not matter: gated attention pooling (Ilse et al. 2018, arXiv 1802.04712, eq. 9),
or the largest or the mean value of each feature."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.sequence.frames import UNSEEN, EncoderSettings, Frames
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings


class BagSettings(EncoderSettings):
    """Settings of the networks for bags.

    Args:
        pooling: How the images of a bag become one vector.
        attention_width: Hidden numbers by which the attention of an image is computed.
    """

    plugins = EncoderSettings.plugins  # a section looks at a class's own attributes only

    selective: ClassVar[frozenset[str]] = frozenset({"pooling"})  # a bag of one image is the same by mean and by max

    pooling: Literal["attention", "max", "mean"] = "attention"  # it also tells which images counted
    attention_width: Annotated[int, Field(ge=4, le=512)] = 32  # 128 in the paper, whose features are 500 wide


class Bag(nn.Module):
    """An encoder of each image, pooling, and a linear layer."""

    def __init__(self, task: TaskSettings, own: BagSettings) -> None:
        super().__init__()
        self.pooling = own.pooling
        self.frames = Frames(task, own)
        if own.pooling == "attention":
            self.content = nn.Linear(own.feature_width, own.attention_width)
            self.gate = nn.Linear(own.feature_width, own.attention_width)
            self.score = nn.Linear(own.attention_width, 1, bias=False)  # a constant would change no weight
        self.head = nn.Linear(own.feature_width, len(task.classes))

    def forward(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        vectors = self.frames(images, there)
        if self.pooling == "max":
            some = (there.sum(dim=1, keepdim=True) > 0).to(vectors)
            pooled = vectors.masked_fill(there[..., None] == 0, UNSEEN).amax(dim=1) * some
        else:
            pooled = (vectors * self._weights(vectors, there)[..., None]).sum(dim=1)
        logits: torch.Tensor = self.head(pooled)
        return logits

    def attention(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return how much each image counts in the mean, ``[items, frames]``, together 1; 0 for what is not there."""
        return self._weights(self.frames(images, there), there)

    def _weights(self, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        if self.pooling == "mean":
            return there / there.sum(dim=1, keepdim=True).clamp(min=1)
        scores = self.score(torch.tanh(self.content(vectors)) * torch.sigmoid(self.gate(vectors)))[..., 0]
        return torch.softmax(scores.masked_fill(there == 0, UNSEEN), dim=1) * there


@with_settings(BagSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task."""
    return Bag(task, settings_of(task, BagSettings))
