"""An item before it becomes tensors."""

import numpy as np

from salus.common.examples import Example


def test_spacing_is_the_length_of_the_affines_columns() -> None:
    turned = np.array([[0, 0, 0.5, 9], [0, -2, 0, 1], [3, 0, 0, 4], [0, 0, 0, 1.0]])
    assert Example({"image": np.zeros((1, 2, 2, 2))}, affine=turned).spacing_mm == (3.0, 2.0, 0.5)
    assert Example({"features": np.zeros(3)}).spacing_mm == ()


def test_fields_are_replaced_in_a_copy() -> None:
    before = Example({"image": np.zeros(1)})
    after = before.with_fields(image=np.ones(1), mask=np.ones(2))
    assert before["image"][0] == 0
    assert "mask" not in before
    assert (after["image"][0], len(after["mask"])) == (1, 2)
