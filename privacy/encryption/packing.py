"""Fixed-point values side by side in the slots of a plaintext, with room for the sum over all sites.

    slot = value_0 + value_1 * 2^w + value_2 * 2^2w        w bits per field
    value = round(2^f x) + 2^(b - 1)                       b bits, never negative

Sums of fields never reach the next field, and sums of slots never reach the plaintext modulus, so a decrypted sum of slots
is exactly the sums of the values; `choose_packing` proves both or refuses.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.errors import ProtectionError
from salus.privacy.prg import Words

PLAIN_MODULUS = 1152921504606830593  # the largest 60-bit prime that allows batching at degree 8192, as SEAL chooses it
SLOTS = 8192
FIELD_COUNTS = (3, 2, 1)  # fewest bytes first
MOST_VALUE_BITS = 31
FEWEST_FRACTION_BITS = 12  # as in masking: below 12 bits, rounding errors would dominate a model's update
FRACTION_BITS = 20
Slots = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Packing:
    """How values share slots.

    Args:
        sites: the most sites in a sum.
        fields: values per slot.
        field_bits: w.
        value_bits: b, bits of one site's value with its offset.
        fraction_bits: f, bits after the binary point.
    """

    sites: int
    fields: int
    field_bits: int
    value_bits: int
    fraction_bits: int

    @property
    def offset(self) -> int:
        """The offset that makes a value non-negative: 2^(b - 1)."""
        return 1 << (self.value_bits - 1)

    @property
    def per_chunk(self) -> int:
        """Values in one ciphertext."""
        return SLOTS * self.fields

    def chunks(self, length: int) -> int:
        """Return the number of ciphertexts for a vector of this length."""
        return max(1, math.ceil(length / self.per_chunk))

    def holds(self) -> bool:
        """Return whether no sum over `sites` sites can overflow a field or the plaintext modulus."""
        largest = self.sites * ((1 << self.value_bits) - 1)
        whole = sum(largest << (self.field_bits * place) for place in range(self.fields))
        return largest < 1 << self.field_bits and whole < PLAIN_MODULUS

    def pack(self, words: Words) -> Slots:
        """Return the slots of one chunk; fields past the end of `words` hold the offset, like zeros.

        Args:
            words: at most `per_chunk` values in two's complement.

        Raises:
            ProtectionError: a value does not fit b bits.
        """
        values = np.full(self.per_chunk, self.offset, dtype=np.int64)
        values[: len(words)] += words.view(np.int32)
        if (values < 0).any() or (values >> self.value_bits).any():
            raise ProtectionError(
                f"A value does not fit in {self.value_bits} bits.", remedy="Lower aggregation.update_clip_norm_l2."
            )
        fields = values.astype(np.uint64).reshape(self.fields, SLOTS)
        slots = np.zeros(SLOTS, dtype=np.uint64)
        for place in range(self.fields):
            slots |= fields[place] << np.uint64(self.field_bits * place)
        return slots

    def unpack(self, slots: Slots, sites: int, count: int) -> npt.NDArray[np.int64]:
        """Return the sums of `count` values from the slots of a sum over `sites` sites.

        Raises:
            ProtectionError: a field holds more than these sites can have added; a site encrypted invalid values.
        """
        mask = np.uint64((1 << self.field_bits) - 1)
        fields = [(slots >> np.uint64(self.field_bits * place)) & mask for place in range(self.fields)]
        top = slots >> np.uint64(self.field_bits * self.fields) if self.field_bits * self.fields < 64 else slots * 0
        sums = np.concatenate(fields).astype(np.int64)
        if (sums > sites * ((1 << self.value_bits) - 1)).any() or top.any():
            raise ProtectionError(
                "A decrypted sum is larger than its sites can have produced.",
                remedy="A site encrypted invalid values or used another key. Start a new attempt.",
            )
        result: npt.NDArray[np.int64] = sums[:count] - sites * self.offset
        return result


def choose_packing(sites: int, clip_norm_l2: float) -> Packing:
    """Return the packing with the fewest bytes per value in which 2^-12 is still resolved.

    Args:
        sites: the most sites in a sum.
        clip_norm_l2: bound on every value of a site, because it bounds the whole vector.

    Guarantees: `Packing.holds`; every value of norm at most max(clip_norm_l2, 1) fits.

    Raises:
        ProtectionError: no packing does.
    """
    whole_bits = max(0, math.ceil(math.log2(max(clip_norm_l2, 1.0))))
    for fields in FIELD_COUNTS:
        field_bits = 60 // fields
        for value_bits in range(min(MOST_VALUE_BITS, field_bits), 0, -1):
            # One bit for the sign; the offset and the rounding up of the largest value cost less than one more.
            fraction_bits = min(FRACTION_BITS, value_bits - 2 - whole_bits)
            if fraction_bits < FEWEST_FRACTION_BITS:
                break
            packing = Packing(sites, fields, field_bits, value_bits, fraction_bits)
            if packing.holds():
                return packing
    raise ProtectionError(
        f"Values up to {clip_norm_l2:g} from {sites} sites do not fit a slot with 12 fractional bits.",
        remedy="Lower aggregation.update_clip_norm_l2.",
    )
