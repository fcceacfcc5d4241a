"""Noise has the law it claims, by tests that reject another one; and it cannot be foretold."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from salus.privacy.dp.discrete_gaussian import DiscreteGaussian, discrete_gaussian
from salus.privacy.dp.gaussian import gaussian, noised
from salus.privacy.dp.sampling import capped, poisson_sample
from salus.privacy.randomness import Stream

ALPHA = 1e-6  # false alarms: one in a million runs of each test


def seeded(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def discrete_p_value(sample: np.ndarray, sigma: float, bins: int = 40) -> float:
    """Return the p-value of a chi-square test of whole numbers against the discrete Gaussian's exact law."""
    reach = int(max(12.0, 12 * sigma))
    if sigma <= 50:
        support = np.arange(-reach, reach + 1)
        law = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
        law /= law.sum()
        total = np.cumsum(law)
    else:
        # Cells of many whole numbers: the sum over a cell is the integral of the density to within e^-(2 pi^2 sigma^2).
        support = None
    edges = np.unique(np.rint(stats.norm.ppf(np.arange(1, bins) / bins) * sigma)).astype(int)
    if support is not None:
        cumulative = np.concatenate([[0.0], total[np.searchsorted(support, edges)], [1.0]])
    else:
        cumulative = np.concatenate([[0.0], stats.norm.cdf((edges + 0.5) / sigma), [1.0]])
    expected = np.diff(cumulative) * len(sample)
    observed = np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(expected))
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("sigma", [0.5, 3.0, 100.0, 1e5])
def test_discrete_gaussian_has_its_exact_law_and_a_tenth_more_is_rejected(sigma: float) -> None:
    sample = discrete_gaussian(200_000, sigma, Stream(seeded(1)))
    assert discrete_p_value(sample, sigma) > ALPHA
    assert discrete_p_value(sample, sigma * 1.1) < ALPHA
    assert discrete_p_value(discrete_gaussian(200_000, sigma * 1.1, Stream(seeded(2))), sigma) < ALPHA


@pytest.mark.parametrize("sigma", [0.5, 3.0, 100.0])
def test_the_exact_path_alone_has_the_same_law(sigma: float) -> None:
    sample = DiscreteGaussian(sigma, Stream(seeded(3)), always_exact=True).sample(6000)
    assert discrete_p_value(sample, sigma, bins=12) > ALPHA
    assert discrete_p_value(DiscreteGaussian(sigma * 1.3, Stream(seeded(4))).sample(6000), sigma, bins=12) < ALPHA


def test_both_paths_decide_alike_on_the_same_bits() -> None:
    for sigma in (0.7, 5.0, 1234.5):
        fast, exact = (
            DiscreteGaussian(sigma, Stream(seeded(5))),
            DiscreteGaussian(sigma, Stream(seeded(5)), always_exact=True),
        )
        assert np.array_equal(fast._magnitudes(500), exact._magnitudes(500))
        magnitudes = np.abs(discrete_gaussian(500, sigma, Stream(seeded(6))))
        fast, exact = (
            DiscreteGaussian(sigma, Stream(seeded(7))),
            DiscreteGaussian(sigma, Stream(seeded(7)), always_exact=True),
        )
        assert np.array_equal(fast._accepts(magnitudes), exact._accepts(magnitudes))


def test_widths_that_cannot_be_sampled_are_refused() -> None:
    for sigma in (0.0, -1.0, float("nan"), 2.0**41):
        with pytest.raises(ValueError, match="sigma"):
            DiscreteGaussian(sigma, Stream(os.urandom))


def test_gaussian_noise_is_normal_and_a_twentieth_more_is_rejected() -> None:
    sample = gaussian(200_001, 2.0, Stream(seeded(8))).numpy()
    assert len(sample) == 200_001
    assert stats.kstest(sample / 2.0, "norm").pvalue > ALPHA
    assert stats.kstest(sample / 2.1, "norm").pvalue < ALPHA
    assert abs(np.corrcoef(sample[:100_000], sample[100_001:])[0, 1]) < 0.02  # the two halves of Box and Muller


def test_released_values_lie_on_the_grid() -> None:
    import torch

    values = torch.randn(1000, dtype=torch.float64)
    released = noised(values, 3.0, Stream(os.urandom))
    steps = released / (3.0 * 2.0**-20)
    assert torch.equal(steps, steps.round())
    assert float((released - values).std()) == pytest.approx(3.0, rel=0.15)


def test_two_streams_never_agree_and_one_stream_never_repeats() -> None:
    one, other = Stream(os.urandom), Stream(os.urandom)
    first = one.words64(1000)
    assert not np.intersect1d(first, one.words64(1000)).size
    assert not np.intersect1d(first, other.words64(1000)).size


def sample_sizes(draw: Callable[[Stream], np.ndarray]) -> np.ndarray:
    stream = Stream(seeded(9))
    return np.array([len(draw(stream)) for _ in range(2000)])


def test_patients_are_sampled_by_independent_coins_and_fixed_batches_are_rejected() -> None:
    """The size of a Poisson sample is binomial; sampling without replacement always takes the same number."""

    def p_value(sizes: np.ndarray) -> float:
        # Dispersion test: the variance of sizes against the binomial's, normal approximation of chi-square.
        statistic = ((sizes - 200 * 0.1) ** 2).sum() / (200 * 0.1 * 0.9)
        return float(2 * min(stats.chi2.cdf(statistic, len(sizes)), stats.chi2.sf(statistic, len(sizes))))

    assert p_value(sample_sizes(lambda stream: poisson_sample(200, 0.1, stream))) > ALPHA
    assert p_value(sample_sizes(lambda stream: np.argsort(stream.uniforms(200))[:20])) < ALPHA
    everybody = np.concatenate([poisson_sample(200, 0.1, Stream(seeded(s))) for s in range(500)])
    assert stats.chisquare(np.bincount(everybody, minlength=200)).pvalue > ALPHA


def test_a_patient_with_many_images_gives_only_some_of_them_and_each_has_its_turn() -> None:
    stream = Stream(seeded(10))
    seen = [tuple(capped([5, 6, 7, 8, 9], 2, stream)) for _ in range(300)]
    assert all(len(set(images)) == 2 and set(images) <= {5, 6, 7, 8, 9} for images in seen)
    assert len(set(seen)) == 10
    assert capped([1, 2], 2, stream) == [1, 2]
