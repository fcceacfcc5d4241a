"""Real numbers in a protected sum without rounding by the protection: fixed point, split into limbs of 12 bits.

A protection adds numbers from 0 to 1 with at least 12 bits behind the point (and in single precision at most 24), so a limb
divided by 4096 stays exact, and so does a sum of limbs. One further entry counts the sites, because every number is
shifted by a constant that the sum contains once per site.
"""

import numpy as np

from salus.common.errors import DataError
from salus.common.sums.base import Float64Vector

LIMB_BITS, LIMBS = 12, 5
FRACTION_BITS = 24
LIFT = 2 ** (LIMB_BITS * LIMBS - 1)
LARGEST = float(LIFT) / 2**FRACTION_BITS  # 3.4e10


def exact_size(count: int) -> int:
    """Return the number of entries that `to_limbs` returns for `count` numbers."""
    return 1 + count * LIMBS


def to_limbs(values: Float64Vector) -> Float64Vector:
    """Return entries from 0 to 1 for numbers of either sign, rounded to 2^-24.

    Raises:
        DataError: a number is not finite or not below 3.4e10.
    """
    if not np.isfinite(values).all() or (np.abs(values) >= LARGEST - 1).any():
        raise DataError(f"Expected statistics below {LARGEST:.2g}.", remedy="Check the range of the data.")
    lifted = [round(float(value) * 2**FRACTION_BITS) + LIFT for value in values]
    limbs = [(number >> (LIMB_BITS * place)) % 2**LIMB_BITS for number in lifted for place in range(LIMBS)]
    return np.concatenate([[1.0], np.array(limbs, dtype=np.float64) / 2**LIMB_BITS])


def from_limbs(entries: Float64Vector) -> Float64Vector:
    """Return the sums of the numbers that sites passed to `to_limbs`; sites that sent only zeros are not counted."""
    sites = round(float(entries[0]))
    limbs = np.rint(entries[1:] * 2**LIMB_BITS).astype(np.int64).reshape(-1, LIMBS)
    numbers = [sum(int(limb) << (LIMB_BITS * place) for place, limb in enumerate(row)) for row in limbs]
    return np.array([(number - sites * LIFT) / 2**FRACTION_BITS for number in numbers])
