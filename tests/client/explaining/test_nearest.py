"""Which cases are chosen, and which of the site's inputs are counterexamples."""

import numpy as np
import pytest

from salus.client.explaining.nearest import Compared, chosen, counterexamples
from salus.client.predicting.inputs import Input


def one(
    name: str, at: float, answer: str = "a", truth: str = "", *, patient: str = "", number: float | None = None
) -> Compared:
    features = np.array([at, 0.0], np.float32)
    return Compared(Input(name, name, patient=patient or name), answer, truth, answer, features, number)


def names(every: list[Compared], place: int = 0) -> list[str]:
    return [found.other.one.item for found in counterexamples(place, every)]


def test_the_nearest_of_another_truth_come_first_whatever_the_model_says() -> None:
    every = [
        one("own", 0, "a", "a"), one("same", 0.1, "b", "a"), one("far", 9, "a", "b"), one("near", 2, "b", "b"),
        one("mid", 3, "a", "b"),
    ]  # fmt: skip
    assert names(every) == ["near", "mid"]


def test_without_truth_the_answers_must_differ() -> None:
    assert names([one("own", 0, "a"), one("same", 1, "a"), one("other", 5, "b", "b")]) == ["other"]


def test_no_image_of_the_same_patient_is_a_counterexample() -> None:
    every = [one("own", 0, "a", "a", patient="P"), one("mine", 1, "b", "b", patient="P"), one("other", 5, "b", "b")]
    assert names(every) == ["other"]


def test_numbers_must_differ_by_a_standard_deviation() -> None:
    every = [one(str(k), k, "", number=float(k)) for k in range(5)]  # a standard deviation of 1.4
    assert names(every) == ["2", "3"]


def test_distances_are_shares_of_the_usual_one() -> None:
    every = [one("own", 0, "a"), one("x", 1, "b"), one("y", 2, "a"), one("z", 3, "a")]
    (found,) = counterexamples(0, every)
    assert found.distance == pytest.approx(0.5)
    assert counterexamples(0, [one("own", 0)]) == []


def test_wrong_answers_are_at_most_half_of_the_cases_and_answers_take_turns() -> None:
    every = [one(f"w{k}", k, "a", "b") for k in range(6)] + [one(f"r{k}", k, "a", "a") for k in range(9)]
    every += [one("b0", 0, "b", "b")]
    places = chosen(every, 4)
    assert [every[place].one.item for place in places] == ["w0", "w1", "r0", "b0"]
    assert len(chosen(every, 100)) == len(every)
    assert [every[place].wrong for place in chosen(every[:8], 6)] == [True] * 4 + [False] * 2
