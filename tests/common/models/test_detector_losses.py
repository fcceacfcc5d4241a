"""How far boxes are off, and what each anchor weighs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.models.detectors.losses import box_errors, shares

SIDES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=4, max_size=4)


def error(one: list[float], other: list[float]) -> float:
    return float(box_errors(torch.tensor([one]), torch.tensor([other]))[0])


def test_known_errors() -> None:
    assert error([0.0, 0, 4, 4], [0.0, 0, 4, 4]) == pytest.approx(0)
    assert error([0.0, 0, 4, 4], [0.0, 0, 4, 8]) == pytest.approx(0.5)  # the hull is the union
    assert error([0.0, 0, 2, 2], [2.0, 2, 4, 4]) == pytest.approx(1 + (16 - 8) / 16)  # they touch in a corner
    assert error([0.0, 0, 1, 1], [9.0, 9, 10, 10]) == pytest.approx(1 + (100 - 2) / 100)


def test_a_box_turned_inside_out_has_a_finite_error_and_gradient() -> None:
    found = torch.tensor([[5.0, 5, 1, 1]], requires_grad=True)
    value = box_errors(found, torch.tensor([[0.0, 0, 4, 4]]))
    value.sum().backward()
    assert 0 <= float(value[0].detach()) <= 2
    assert torch.isfinite(found.grad).all()


@given(SIDES)
def test_it_is_the_plain_formula_and_symmetric(sides: list[tuple[int, int]]) -> None:
    (a, b), (c, d) = sides[:2], sides[2:]
    one, other = [a[0], b[0], a[0] + a[1], b[0] + b[1]], [c[0], d[0], c[0] + c[1], d[0] + d[1]]
    cells = [{(y, x) for y in range(r[0], r[2]) for x in range(r[1], r[3])} for r in (one, other)]
    both, either = len(cells[0] & cells[1]), len(cells[0] | cells[1])
    hull = (max(one[2], other[2]) - min(one[0], other[0])) * (max(one[3], other[3]) - min(one[1], other[1]))
    wanted = 1 - both / either + (hull - either) / hull
    assert error([float(v) for v in one], [float(v) for v in other]) == pytest.approx(wanted, abs=1e-5)
    assert error([float(v) for v in other], [float(v) for v in one]) == pytest.approx(wanted, abs=1e-5)


def test_anchors_of_an_object_share_the_weight_of_one() -> None:
    positive = torch.tensor([[True, True, True, True, False], [False] * 5])
    which = torch.tensor([[0, 0, 0, 2, 1], [0, 0, 0, 0, 0]])
    found = shares(positive, which, 3)
    assert found[0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0, 0.0])  # two objects, each with half of four
    assert found[1].tolist() == [0.0] * 5
