"""Noise in every word and the cost of releases of everybody: what an examination changed without any test noticing."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from salus.privacy.dp import accounting
from salus.privacy.dp.accounting import Release, epsilon, renyi_epsilon
from salus.privacy.dp.discrete_gaussian import DiscreteGaussian, discrete_gaussian
from salus.privacy.dp.gaussian import gaussian, noised
from salus.privacy.masking import noise
from salus.privacy.masking.noise import add_discrete_noise
from salus.privacy.randomness import Stream

ALPHA = 1e-6
COUNT = 200_003  # more than three chunks of 65 536, and the last one not full
SIGMA = 300.0
Noise = Callable[[], np.ndarray]


def stream() -> Stream:
    return Stream(np.random.default_rng(1).bytes)


def _added() -> np.ndarray:
    words = np.zeros(COUNT, dtype=np.uint32)
    add_discrete_noise(words, SIGMA, stream())
    return words.view(np.int32).astype(np.float64)


SOURCES: dict[str, Noise] = {
    "gaussian": lambda: gaussian(COUNT, SIGMA, stream()).numpy(),
    "discrete": lambda: discrete_gaussian(COUNT, SIGMA, stream()).astype(np.float64),
    "noised": lambda: noised(torch.zeros(COUNT, dtype=torch.float64), SIGMA, stream()).numpy(),
    "words of a masked sum": _added,
}


def noise_is_everywhere(values: np.ndarray) -> bool:
    """Return whether every stretch of 4096 words has the law of the noise, and no stretch repeats another."""
    cut = [values[first : first + 4096] for first in range(0, len(values), 4096)]
    level = ALPHA / len(cut)
    spread = np.random.default_rng(2).uniform(-0.5, 0.5, len(values))  # whole numbers become a continuous law
    law = all(
        stats.kstest((part + spread[: len(part)]) / SIGMA, "norm").pvalue > level for part in cut if len(part) > 100
    )
    whole = [part for part in cut if len(part) == 4096]
    return law and len({part.tobytes() for part in whole}) == len(whole)


@pytest.mark.parametrize("source", SOURCES)
def test_every_word_has_its_own_noise(source: str) -> None:
    values = SOURCES[source]()
    assert len(values) == COUNT
    assert noise_is_everywhere(values)


def _first_chunk_only(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) < 65_536, values, 0.0)


def _but_the_last_words(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) < len(values) - 2000, values, 0.0)


def _first_chunk_again(values: np.ndarray) -> np.ndarray:
    return np.resize(values[:65_536], len(values))


@pytest.mark.parametrize("mutant", [_first_chunk_only, _but_the_last_words, _first_chunk_again])
def test_noise_in_some_words_only_is_caught(mutant: Callable[[np.ndarray], np.ndarray]) -> None:
    assert not noise_is_everywhere(mutant(SOURCES["gaussian"]()))


def test_a_sum_whose_later_chunks_get_no_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once(DiscreteGaussian):
        """Mutant: samples for the first chunk, and nothing for the others."""

        calls = 0

        def sample(self, count):  # type: ignore[no-untyped-def]
            self.calls += 1
            return super().sample(count) if self.calls == 1 else np.zeros(count, np.int64)

    monkeypatch.setattr(noise, "DiscreteGaussian", Once)
    assert not noise_is_everywhere(_added())


def exact_epsilon(noise_multiplier: float, count: int, delta: float) -> float:
    """Return the epsilon of `count` Gaussian releases without sampling (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""
    z = noise_multiplier / math.sqrt(count)

    def excess(value: float) -> float:
        less = stats.norm.logcdf(-1 / (2 * z) - value * z) + value
        return float(stats.norm.cdf(1 / (2 * z) - value * z) - math.exp(less) - delta)

    return 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, 500.0))


WHOLE = [(1.0, 1), (4.0, 10), (20.0, 2), (20.0, 300)]


def never_below_the_exact_one(bound: Callable[[list[Release], float], float]) -> bool:
    releases = [
        (Release(mechanism=kind, noise_multiplier=z, sampling_rate=1.0, count=count), exact_epsilon(z, count, 1e-5))  # type: ignore[arg-type]
        for z, count in WHOLE
        for kind in ("gaussian", "discrete-gaussian")
    ]
    return all(exact * 0.999 <= bound([release], 1e-5) <= exact * 1.35 for release, exact in releases)


@pytest.mark.parametrize("bound", [epsilon, renyi_epsilon])
def test_releases_of_everybody_never_cost_less_than_exactly(bound: Callable[[list[Release], float], float]) -> None:
    assert never_below_the_exact_one(bound)


def test_a_halved_cost_of_releases_of_everybody_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = accounting.renyi_divergence

    def halved(noise_multiplier: float, sampling_rate: float, order: int) -> float:
        return right(noise_multiplier, sampling_rate, order) / (2 if sampling_rate == 1.0 else 1)

    for order in (2, 7, 64):  # the branch without sampling is the limit of the one with it
        assert right(3.0, 1.0, order) == pytest.approx(right(3.0, 1 - 1e-9, order), rel=1e-6)
        assert halved(3.0, 1.0, order) != pytest.approx(right(3.0, 1 - 1e-9, order), rel=0.1)
    monkeypatch.setattr(accounting, "renyi_divergence", halved)
    accounting._renyi_curve.cache_clear()
    accounting._epsilon.cache_clear()
    try:
        assert not never_below_the_exact_one(renyi_epsilon)
        assert not never_below_the_exact_one(epsilon)
    finally:
        accounting._renyi_curve.cache_clear()
        accounting._epsilon.cache_clear()
