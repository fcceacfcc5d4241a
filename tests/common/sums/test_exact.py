import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.errors import DataError
from salus.common.sums.exact import FRACTION_BITS, exact_size, from_limbs, to_limbs

NUMBERS = st.floats(-3e10, 3e10, allow_nan=False)
GRID = 2.0**-FRACTION_BITS


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1, max_size=9)))
def test_a_sum_of_encodings_is_the_sum_of_the_numbers(parts: list[list[float]]) -> None:
    entries = [to_limbs(np.array(part)) for part in parts]
    assert all(len(e) == exact_size(len(parts[0])) and e.min() >= 0 and e.max() <= 1 for e in entries)
    found = from_limbs(np.sum(entries, axis=0))
    expected = np.array(parts).astype(np.longdouble).sum(axis=0)
    assert (
        np.abs(found - expected).max() <= len(parts) * GRID + 4e-5
    )  # half a last place of doubles up to 2.7e11, twice


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_twelve_bits_behind_the_point_are_enough_and_absent_sites_do_not_count(numbers: list[float]) -> None:
    entries = to_limbs(np.array(numbers))
    assert np.array_equal(np.rint(entries * 2**12) / 2**12, entries)  # so the coarsest grid of a protection keeps them
    with_nobody = entries + np.zeros_like(entries)
    assert np.allclose(from_limbs(with_nobody), numbers, rtol=1e-15, atol=GRID)
    assert not from_limbs(np.zeros_like(entries)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 4e10, -4e10])
def test_numbers_that_do_not_fit_are_refused(bad: float) -> None:
    with pytest.raises(DataError):
        to_limbs(np.array([1.0, bad]))
