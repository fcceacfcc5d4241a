"""Scores whose explanations are known beforehand."""

import torch

from salus.client.explaining.subject import Score, Subject


class Linear(Score):
    """The sum of the inputs, each times its weight: of this, every value's own share is known."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.network = torch.nn.Identity()
        self.weights = weights

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.network(inputs) * self.weights).flatten(1).sum(dim=1)  # type: ignore[misc]
        return found

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(scores)


def linear_image(side: int = 8, channels: int = 1, seed: int = 0) -> Subject:
    """Return a picture whose empty input is 0, so that each value's share is itself times its weight."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(channels, side, side, generator=generator)
    inputs = torch.randn(1, channels, side, side, generator=generator)
    return Subject(Linear(weights), inputs, torch.zeros_like(inputs), torch.zeros_like(inputs))


def linear_row(columns: int = 6, seed: int = 0) -> Subject:
    """Return a row likewise; its last two features are of one column."""
    generator = torch.Generator().manual_seed(seed)
    weights, inputs = (torch.randn(columns, generator=generator) for _ in range(2))
    groups = (*range(columns - 1), columns - 2)
    names = tuple(f"c{number}" for number in range(columns - 1))
    row = inputs[None]
    return Subject(Linear(weights), row, torch.zeros_like(row), torch.zeros(4, columns), groups, names)


def shares(subject: Subject) -> torch.Tensor:
    """Return what each value of a linear subject adds, summed over channels."""
    assert isinstance(subject.score, Linear)
    found = (subject.inputs * subject.score.weights)[0]
    return found if subject.is_row else found.sum(dim=0)
