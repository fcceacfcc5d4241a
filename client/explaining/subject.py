"""What a method explains: one number that a model gives for one image or row."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from salus.common.strict import Strict

FloatArray = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
LARGEST_PASS = 2**21  # numbers of the inputs that go through a network at once
MOST_AT_ONCE = 32
MISSING = -1e30  # stands for a missing value of a row: captum multiplies by 0 and 1, and NaN would stay NaN


class Score(torch.nn.Module):
    """The number that is explained, ``[items]``, of inputs ``[items, ...]``.

    Attributes:
        network: the model, or None for a model from sums, which has neither layers nor gradients.
    """

    network: torch.nn.Module | None

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores from 0 to 1: the probability for a class, else how far from the empty input's to the image's."""
        raise NotImplementedError

    def with_network(self, network: torch.nn.Module) -> "Score":
        """Return the same question to another network of this job."""
        other = copy.copy(self)
        other._modules = {**self._modules, "network": network}
        return other


@dataclass(frozen=True)
class Subject:
    """An input and the number that is explained.

    Args:
        inputs: ``[1, channels, *spatial]`` or ``[1, columns]``.
        empty: an input that shows nothing: the image blurred until no structure is left; of a row, the site's means.
        others: other inputs of the site, ``[inputs, ...]``; at least one.
        groups: for a row, the number of the column that each feature is of; a category has a feature for each value.
        columns: names of the columns; empty for an image.
        trees: a model of trees as plain JSON; empty for any other.
        place: of the class in the trees' leaves.
        seed: of methods that draw.
    """

    score: Score
    inputs: torch.Tensor
    empty: torch.Tensor
    others: torch.Tensor
    groups: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    trees: Mapping[str, Any] = field(default_factory=dict)
    place: int = 1
    seed: int = 0

    @property
    def is_row(self) -> bool:
        """Whether the input is a row of columns."""
        return self.inputs.dim() == 2

    @property
    def at_once(self) -> int:
        """How many inputs may go through the network together."""
        return max(1, min(MOST_AT_ONCE, LARGEST_PASS // self.inputs[0].numel()))

    def scores(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the scores of inputs, a few at a time, without gradients."""
        with torch.no_grad():
            return torch.cat([self.score(part) for part in torch.split(inputs, self.at_once)])

    def seeded(self, seed: int) -> "Subject":
        """Return the subject with another seed."""
        return replace(self, seed=seed)

    def with_network(self, network: torch.nn.Module) -> "Subject":
        """Return the subject with another network."""
        return replace(self, score=self.score.with_network(network))


class Method(Protocol):
    """A method of explanation, built from its settings; not built where a package that it needs is not installed.

    Guarantees that every implementation must give: the same subject and seed give the same map, and the random state of torch
    and numpy is untouched.
    """

    Settings: type[Strict]
    title: str
    """Its name for people."""

    def __init__(self, settings: Any) -> None: ...

    def unfit(self, subject: Subject) -> str:
        """Return why the method cannot explain such a model; empty if it can."""

    def __call__(self, subject: Subject) -> torch.Tensor:
        """Return how much each pixel or feature speaks for the score, ``[*spatial]`` or ``[features]``; not smoothed."""


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed torch and numpy for what a library draws, and restore both."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def no_gradient(subject: Subject) -> str:
    """Return why a method that needs gradients cannot be applied; empty if it can."""
    return "" if subject.score.network is not None else "the model comes from sums and has no gradient"


def over_channels(found: torch.Tensor) -> torch.Tensor:
    """Return the map of ``[1, channels, *spatial]`` summed over channels, or of a row ``[1, features]``, finite."""
    finite = torch.nan_to_num(found.detach().float().cpu()[0], 0.0, 0.0, 0.0)
    return finite.sum(dim=0) if finite.dim() > 1 else finite


def per_column(found: npt.ArrayLike, groups: tuple[int, ...]) -> FloatArray:
    """Return what the features of each column add, ``[columns]``."""
    values = np.asarray(found, np.float32)
    total = np.zeros(max(groups, default=-1) + 1, np.float32)
    np.add.at(total, list(groups), values)
    return total
