"""Thresholds and cohorts."""

import pytest
from tests.builders import tiny_job

from salus.common.errors import ProtectionError
from salus.privacy.masking.protection import MASKING
from salus.privacy.protocol.parameters import thresholds


def test_thresholds_hold_for_every_size() -> None:
    for n in range(3, 400):
        limits = thresholds(n)
        assert 2 * limits.threshold > n + limits.colluders
        assert limits.threshold <= n
        assert limits.needed >= 5
    with pytest.raises(ProtectionError):
        thresholds(2)


def test_a_roster_that_is_too_small_is_refused_when_the_job_starts() -> None:
    with pytest.raises(ProtectionError, match="at least 5 sites"):
        MASKING.check(tiny_job(), 4)
    MASKING.check(tiny_job(), 5)
