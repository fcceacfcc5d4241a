"""Packing: sums are exact for every number of sites, and what cannot be exact is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.errors import ProtectionError
from salus.privacy.encryption.packing import PLAIN_MODULUS, SLOTS, Packing, choose_packing


@pytest.mark.parametrize("sites", [1, 2, 3, 5, 16, 17, 64, 100, 255, 1000])
@pytest.mark.parametrize("clip", [0.1, 1.0, 3.0, 10.0, 100.0])
def test_whatever_is_chosen_holds_at_its_extremes(sites: int, clip: float) -> None:
    try:
        packing = choose_packing(sites, clip)
    except ProtectionError:
        assert sites * clip > 50
        return
    assert packing.holds()
    reach = int(np.ceil(max(clip, 1.0) * 2**packing.fraction_bits)) + 1
    for value in (-reach, reach, 0):
        slots = packing.pack(np.array([value], dtype=np.int64).astype(np.uint32))
        total = sum(int(s) for s in [slots[0]] * sites)
        assert total < PLAIN_MODULUS
        summed = np.array([total] * SLOTS, dtype=np.uint64)
        assert packing.unpack(summed, sites, 1).tolist() == [value * sites]


def test_three_fields_for_sixteen_bits_and_sixteen_sites_two_for_twenty_and_a_thousand() -> None:
    assert Packing(16, 3, 20, 16, 14).holds()
    assert not Packing(17, 3, 20, 16, 14).holds()
    assert Packing(100, 3, 20, 13, 11).holds()
    assert Packing(1000, 2, 30, 20, 14).holds()
    assert not Packing(1100, 2, 30, 20, 14).holds()
    assert choose_packing(16, 1.0).fields == 3
    assert choose_packing(1000, 1.0).fields == 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 40), clip=st.sampled_from([1.0, 4.0]))
def test_sums_of_random_vectors_are_exact(seed: int, sites: int, clip: float) -> None:
    packing = choose_packing(sites, clip)
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, packing.per_chunk + 1))
    reach = int(clip * 2**packing.fraction_bits)
    values = rng.integers(-reach, reach + 1, size=(sites, length))
    slots = np.sum([packing.pack(row.astype(np.uint32)) for row in values], axis=0, dtype=np.uint64)
    assert np.array_equal(packing.unpack(slots, sites, length), values.sum(axis=0))


def test_values_that_do_not_fit_and_sums_that_nobody_can_have_made_are_refused() -> None:
    packing = choose_packing(16, 1.0)
    with pytest.raises(ProtectionError, match="does not fit"):
        packing.pack(np.array([packing.offset], dtype=np.uint32))
    with pytest.raises(ProtectionError, match="larger than its sites"):
        packing.unpack(packing.pack(np.zeros(1, np.uint32)) * np.uint64(9), 3, 1)
    with pytest.raises(ProtectionError, match="update_clip_norm_l2"):
        choose_packing(1000, 1e6)
