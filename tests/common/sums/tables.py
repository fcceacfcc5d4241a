"""Tables of a number, a category and a noisy number, with holes, divided among hospitals in different ways."""

import numpy as np

from salus.common.sums.base import Measured

COLUMNS = (
    'columns = [{name = "age", centre = 60.0, scale = 10.0}, {name = "pain", values = [1.0, 2.0, 4.0]}, '
    '{name = "st", centre = 1.0}]'
)


def rows(count: int, seed: int = 0) -> list[list[Measured]]:
    """Return patients with one row each, of which some lack values."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        age, pain, st = float(rng.normal(60, 10)), float(rng.choice([1.0, 2.0, 4.0])), float(rng.normal(1, 1))
        odds = 1.5 * (pain == 2) + 0.08 * (age - 60) + (1.2 if st > 1.5 else -0.6)
        label = int(rng.random() < 1 / (1 + np.exp(-odds)))
        if rng.random() < 0.5 * label:
            st = float("nan")  # whether it is missing says something
        columns = {"age": age, "pain": 3.0 if rng.random() < 0.05 else pain, "st": st}
        found.append([Measured(label, np.zeros(0, np.float32), columns=columns)])
    return found


def divisions(patients: list[list[Measured]]) -> list[list[list[list[Measured]]]]:
    """Return the same patients in one place, in two, and in many of different sizes in another order."""
    order = np.random.default_rng(9).permutation(len(patients))
    mixed = [patients[place] for place in order]
    return [[patients], [patients[:30], patients[30:]], [mixed[:7], mixed[7:90], mixed[90:]]]
