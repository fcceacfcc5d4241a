"""Counterexamples among a site's own inputs: what the model sees as most alike, and of which something else is true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salus.client.explaining.subject import FloatArray
from salus.client.predicting.inputs import Input

NUMBERS_DIFFER = 1.0  # standard deviations by which two numbers differ that count as different answers


@dataclass(frozen=True)
class Compared:
    """One input, as far as it is kept for comparisons.

    Args:
        answer: of the model, see `scores.Question`.
        truth: what its label says; empty if nothing is known.
        number: that the model gives, for models whose answer is a number.
    """

    one: Input
    answer: str
    truth: str
    said: str
    features: FloatArray
    number: float | None = None
    probability: float | None = None
    annotated: bool = False

    @property
    def wrong(self) -> bool:
        """Whether the model contradicts the label."""
        return bool(self.truth) and bool(self.answer) and self.truth != self.answer


@dataclass(frozen=True)
class Counterexample:
    """Another input and how far away it is, as a share of the usual distance between two inputs."""

    other: Compared
    distance: float


def counterexamples(place: int, every: Sequence[Compared], most: int = 2) -> list[Counterexample]:
    """Return the nearest inputs of other patients that differ: in what is true, where it is known of both, else in the answer.

    Args:
        place: of the case in `every`.
    """
    own = every[place]
    spread = _spread(every)
    features = np.stack([one.features for one in every]).astype(np.float64)
    distances = np.linalg.norm(features - features[place], axis=1)
    usual = float(np.median(np.delete(distances, place))) if len(every) > 1 else 0.0
    found = [
        (float(distances[number]), number)
        for number, other in enumerate(every)
        if number != place and not _same_patient(own.one, other.one) and differs(own, other, spread)
    ]
    return [
        Counterexample(every[number], distance / usual if usual > 0 else 0.0)
        for distance, number in sorted(found)[:most]
    ]


def differs(own: Compared, other: Compared, spread: float) -> bool:
    """Return whether another input is a counterexample.

    Args:
        spread: standard deviation of the numbers that the model gives.
    """
    if own.truth and other.truth and own.number is None:
        return own.truth != other.truth
    if own.number is not None and other.number is not None:
        return abs(own.number - other.number) > NUMBERS_DIFFER * spread
    return own.answer != other.answer


def _spread(every: Sequence[Compared]) -> float:
    numbers = [one.number for one in every if one.number is not None]
    return float(np.std(numbers)) if len(numbers) > 1 else 0.0


def _same_patient(one: Input, other: Input) -> bool:
    return bool(one.patient) and one.patient == other.patient and not one.patient.startswith("folder ")


def chosen(every: Sequence[Compared], count: int) -> list[int]:
    """Return the places of the cases to explain, in the order of the data: wrong answers first, then each answer in turn.

    Half of the cases at most are wrong answers, as long as there are enough right ones.
    """
    wrong = [place for place, one in enumerate(every) if one.wrong]
    rest = _in_turn([place for place, one in enumerate(every) if not one.wrong], every)
    wrong = _in_turn(wrong, every)
    first = wrong[: max(count // 2, count - len(rest))]
    return sorted([*first, *rest[: count - len(first)]])


def _in_turn(places: Sequence[int], every: Sequence[Compared]) -> list[int]:
    """Return places so that each answer comes in turn."""
    groups: dict[str, list[int]] = {}
    for place in places:
        groups.setdefault(every[place].answer, []).append(place)
    longest = max(map(len, groups.values()), default=0)
    return [group[turn] for turn in range(longest) for group in groups.values() if turn < len(group)]
