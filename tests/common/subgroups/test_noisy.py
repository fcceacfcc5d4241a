"""The total from noisy sums of subgroups: right without noise, and with the noise that is said."""

import numpy as np
import pytest
from scipy import stats
from tests.builders import job_text
from tests.people import with_subgroups

from salus.common.job import parse_job
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Groups
from salus.common.subgroups.noisy import rows_of, total_noise, total_of

ALPHA = 1e-6
GROUPS = groups_of(parse_job(with_subgroups(job_text(), '["sex", "age"]')))
ROW = 4


def sums(random: np.random.Generator) -> np.ndarray:
    """Return exact sums ``[1 + groups, row]`` of 100 patients."""
    rows = np.zeros((1 + GROUPS.count, ROW))
    for _ in range(100):
        row = random.random(ROW)
        rows[0] += row
        for block in GROUPS.blocks.values():
            rows[1 + int(random.integers(block.start, block.stop))] += row
    return rows


def test_without_noise_it_is_the_total() -> None:
    rows = sums(np.random.default_rng(0))
    found = rows_of(rows.reshape(-1) / GROUPS.norm_l2, GROUPS)
    assert np.allclose(found, rows)
    assert np.allclose(total_of(found, GROUPS), rows[0])


def test_without_subgroups_nothing_changes() -> None:
    vector = np.random.default_rng(0).random(ROW)
    none = Groups({})
    assert total_of(rows_of(vector, none), none).tobytes() == vector.tobytes()


def test_its_noise_is_what_is_said_and_less_than_that_of_the_first_row() -> None:
    random = np.random.default_rng(1)
    rows = sums(random)
    draws = [total_of(rows + random.normal(0, 3.0, rows.shape), GROUPS) - rows[0] for _ in range(500)]
    statistic, count = float((np.array(draws) ** 2).sum()) / 9.0, 500 * ROW

    def fits(share: float) -> bool:
        value = statistic / share**2
        return bool(2 * min(stats.chi2.cdf(value, count), stats.chi2.sf(value, count)) > ALPHA)

    assert fits(total_noise(GROUPS))
    assert not fits(1.0)  # must reject: the first row alone
    assert total_noise(GROUPS) == pytest.approx((1 + 1 / 4 + 1 / 6) ** -0.5)
