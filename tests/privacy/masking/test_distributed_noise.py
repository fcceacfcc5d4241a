"""What distributed noise adds to a site's words: its exact share, where it belongs, and enough in the sum."""

import math
import os

import numpy as np
import pytest
from scipy import stats
from tests.builders import tiny_job
from tests.privacy.masking.world import identity

from salus.common.job import Job
from salus.privacy.contribution import Contribution, Shape
from salus.privacy.dp.accounting import SMOOTHING_VARIANCE
from salus.privacy.dp.plan import ROUNDING, plan_of
from salus.privacy.masking import protection
from salus.privacy.masking.protection import MASKING, noise_share
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.store import MemoryStore

ALPHA = 1e-6
SITES, LENGTH = 8, 20_000


def job() -> Job:
    return tiny_job(protection="masking", privacy='noise = "distributed"\nepsilon = 2.0')


def words_of(update: np.ndarray, number: int = 1) -> np.ndarray:
    """Return the words that a site would mask, as signed numbers."""
    keys = {site: identity(site).public_key for site in range(1, SITES + 1)}
    session = Session("job-1", number, 0, b"m" * 32, b"g" * 32, tuple(keys))
    party = SiteParty(1, identity(1), keys, MemoryStore(), 2, os.urandom, "noised/job-1", lambda: Head(1, bytes(32)))
    end = MASKING.site_end(session, Shape(LENGTH, 0, 100.0), job(), party)
    end.open(Contribution(update, 1.0, np.zeros(0)))
    assert end._words is not None
    return end._words.view(np.int32).astype(np.int64)


def has_scale(values: np.ndarray, sigma: float) -> bool:
    """Chi-square test of a standard deviation; the discrete law differs from the normal one by far less than it sees."""
    statistic = float((values.astype(float) ** 2).sum()) / sigma**2
    return bool(2 * min(stats.chi2.cdf(statistic, len(values)), stats.chi2.sf(statistic, len(values))) > ALPHA)


def test_a_site_adds_its_share_to_the_update_and_nothing_to_the_weight() -> None:
    encoding, sigma = noise_share(job(), Shape(LENGTH, 0, 100.0), SITES)
    words = words_of(np.zeros(LENGTH, np.float32))
    assert has_scale(words[:LENGTH], sigma)
    assert not has_scale(words[:LENGTH], sigma * 1.1)
    assert words[LENGTH] == encoding.scale  # the weight is public and exact
    assert abs(np.corrcoef(words[:LENGTH], words_of(np.zeros(LENGTH, np.float32), 2)[:LENGTH])[0, 1]) < 0.05


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_no_noise_and_half_noise_are_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, sigma = noise_share(job(), Shape(LENGTH, 0, 100.0), SITES)
    monkeypatch.setattr(protection, "noise_share", lambda *_: (encoding, sigma * factor))
    assert not has_scale(words_of(np.zeros(LENGTH, np.float32))[:LENGTH], sigma)


def test_the_honest_shares_alone_carry_the_jobs_noise_over_the_largest_change() -> None:
    encoding, sigma = noise_share(job(), Shape(LENGTH, 0, 100.0), SITES)
    plan = plan_of(job())
    assert plan is not None
    largest_change = job().privacy.clip_norm_l2 * ROUNDING * encoding.scale + math.sqrt(LENGTH)
    honest = thresholds(SITES, noised=True).honest
    assert honest == 4
    counted = math.sqrt(sigma**2 * honest - SMOOTHING_VARIANCE)
    assert counted == pytest.approx(plan.noise_multiplier * largest_change, rel=1e-12)


def test_narrow_noise_is_wider_by_what_the_accounting_needs() -> None:
    """Where one patient moves the words by few steps, the four squared steps of smoothing are a visible part."""
    coarse = job()
    coarse = coarse.model_copy(update={"privacy": coarse.privacy.model_copy(update={"clip_norm_l2": 1e-4})})
    plan = plan_of(coarse)
    assert plan is not None
    encoding, sigma = noise_share(coarse, Shape(1, 0, 100.0), SITES)
    change = 1e-4 * ROUNDING * encoding.scale + 1
    honest = thresholds(SITES, noised=True).honest
    assert sigma**2 * honest - (plan.noise_multiplier * change) ** 2 == pytest.approx(SMOOTHING_VARIANCE, rel=1e-6)


def test_rounding_to_the_grid_moves_a_patient_by_less_than_is_counted() -> None:
    """With the same coins, two vectors a clip norm apart differ in words by at most clip / grid + sqrt(d)."""
    from salus.privacy.protocol.encoding import encode

    encoding, _ = noise_share(job(), Shape(LENGTH, 0, 100.0), SITES)
    shape = Shape(LENGTH, 0, 100.0)
    rng = np.random.default_rng(3)
    for _ in range(5):
        one = rng.normal(size=LENGTH)
        move = rng.normal(size=LENGTH)
        coins = os.urandom(32)
        pair = [
            encode(Contribution(v, 1.0, np.zeros(0)), shape, encoding, lambda n, coins=coins: coins).view(np.int32)
            for v in (one, one + move / np.linalg.norm(move))
        ]
        moved = np.linalg.norm((pair[0].astype(np.int64) - pair[1])[:LENGTH])
        assert 0.5 * encoding.scale < moved <= encoding.scale + math.sqrt(LENGTH)
