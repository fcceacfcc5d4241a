import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Shape, Sum, to_vector

SHAPE = Shape(parameters=5, statistics=2, clip_norm_l2=1.5)


@given(
    hnp.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    st.one_of(st.just(0.0), st.floats(1e-6, 1)),  # a weight is at least one over the public bound
)
def test_the_norm_is_bounded_by_weight_times_clip(update: np.ndarray, weight: float) -> None:
    vector = to_vector(Contribution(update, weight, np.array([0.0, 1.0])), SHAPE)
    assert np.linalg.norm(vector[:5]) <= weight * 1.5 * (1 + 1e-12)
    assert vector[5:].tolist() == [weight, 0.0, 1.0]


def test_small_updates_are_only_weighted_and_zero_stays_zero() -> None:
    update = np.array([1, 0, 0, 0, 0], np.float32)
    assert to_vector(Contribution(update, 0.5, np.zeros(2)), SHAPE)[0] == 0.5
    assert not to_vector(Contribution(np.zeros(5, np.float32), 1.0, np.zeros(2)), SHAPE)[:5].any()


@pytest.mark.parametrize(
    ("contribution", "message"),
    [
        (Contribution(np.full(5, np.nan, np.float32), 1.0, np.zeros(2)), "finite"),
        (Contribution(np.full(5, np.inf, np.float32), 1.0, np.zeros(2)), "finite"),
        (Contribution(np.zeros(5, np.float32), float("nan"), np.zeros(2)), "finite"),
        (Contribution(np.zeros(4, np.float32), 1.0, np.zeros(2)), "5 parameters"),
        (Contribution(np.zeros(5, np.float32), 1.0, np.zeros(3)), "2 statistics"),
        (Contribution(np.zeros(5, np.float32), 1.1, np.zeros(2)), "from 0 to 1"),
        (Contribution(np.zeros(5, np.float32), 1.0, np.array([0, -0.1])), "from 0 to 1"),
    ],
)
def test_anything_else_is_refused(contribution: Contribution, message: str) -> None:
    with pytest.raises(ProtectionError, match=message):
        to_vector(contribution, SHAPE)


def test_decoding_a_sum() -> None:
    total = Sum(np.array([2.0, 4, 0, 0, 0, 2.0, 0.5, 1]), (1, 2))
    assert total.mean_update(SHAPE).tolist() == [1, 2, 0, 0, 0]
    assert total.statistics(SHAPE, 100).tolist() == [50, 100]
    with pytest.raises(ProtectionError, match="positive total weight"):
        Sum(np.zeros(8), ()).mean_update(SHAPE)
