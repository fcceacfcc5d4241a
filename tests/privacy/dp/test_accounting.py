"""Epsilon against published and recomputed values, from below by exact sums over the integers, from above by older bounds."""

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from salus.common.errors import JobError
from salus.privacy.dp import accounting
from salus.privacy.dp.accounting import (
    DISCRETE_GAP,
    LARGEST_DIMENSION,
    SMOOTHING_VARIANCE,
    Release,
    epsilon,
    merged,
    pld_epsilon,
    renyi_divergence,
    renyi_epsilon,
    solve_noise,
)


def gaussian(z: float, q: float, count: int) -> Release:
    return Release(mechanism="gaussian", noise_multiplier=z, sampling_rate=q, count=count)


def discrete(z: float, q: float, count: int) -> Release:
    return Release(mechanism="discrete-gaussian", noise_multiplier=z, sampling_rate=q, count=count)


def generic_poisson_renyi(plain: Callable[[int], float], q: float, order: int) -> float:
    """Return the bound for Poisson sampling before any mechanism (Zhu and Wang 2019, theorem 6).

    Args:
        plain: Renyi divergence of the mechanism without sampling, by integer order.
    """
    log_q, log_rest = math.log(q), math.log1p(-q)
    terms = [
        (order - 1) * log_rest + math.log(order * q - q + 1),
        math.log(math.comb(order, 2)) + 2 * log_q + (order - 2) * log_rest + plain(2),
    ]
    for k in range(3, order + 1):
        ways = math.log(3) + math.log(math.comb(order, k))
        terms.append(ways + (order - k) * log_rest + k * log_q + (k - 1) * plain(k))
    return float(np.logaddexp.reduce(terms)) / (order - 1)


@pytest.mark.parametrize(
    ("cost", "count", "reference"),
    [
        (renyi_epsilon, 1000, 2.1013),
        (pld_epsilon, 1000, 1.828),
        (epsilon, 1000, 1.828),
        (renyi_epsilon, 10_000, 6.7127),
    ],
)
def test_reference_values_of_the_sampled_gaussian(
    cost: Callable[[list[Release], float], float], count: int, reference: float
) -> None:
    assert reference <= cost([gaussian(1.0, 0.01, count)], 1e-5) <= reference * 1.005


@pytest.mark.parametrize(("z", "reference"), [(0.8, 4.371), (1.0, 2.450), (2.0, 0.9031)])
def test_reference_values_of_the_generic_bound_and_ours_is_below_it(z: float, reference: float) -> None:
    from dp_accounting import rdp

    orders = list(range(2, 65))
    curve = [1000 * generic_poisson_renyi(lambda a: a / (2 * z * z), 0.01, order) for order in orders]
    value = float(rdp.compute_epsilon(orders, curve, 1e-5)[0])
    assert reference <= value <= reference * 1.005
    ours = renyi_epsilon([discrete(z, 0.01, 1000)], 1e-5)
    assert pld_epsilon([gaussian(z, 0.01, 1000)], 1e-5) <= ours <= value


@pytest.mark.parametrize(("sigma", "shares", "shift", "rate"), [(3.0, 1, 3, 0.1), (2.0, 3, 2, 0.3), (1.0, 1, 1, 0.02)])
@pytest.mark.parametrize("order", [2, 4, 8])
def test_the_lattice_bound_covers_both_directions_of_the_exact_divergence(
    sigma: float, shares: int, shift: int, rate: float, order: int
) -> None:
    """Exact sums over the integers, of sums of discrete Gaussians; shares as narrow as 2 have a tiny error of their own."""
    reach = int(30 * sigma)
    x = np.arange(-reach, reach + 1)
    law = np.exp(-(x**2) / (2 * sigma**2))
    law /= law.sum()
    noise = law
    for _ in range(shares - 1):
        noise = np.convolve(noise, law)
    p0, p1 = np.concatenate([noise, np.zeros(shift)]), np.concatenate([np.zeros(shift), noise])
    inside = (p0 > 1e-180) & (p1 > 1e-180)
    p0, p1 = p0[inside], p1[inside]
    mixed = (1 - rate) * p0 + rate * p1
    bound = renyi_divergence(sigma * math.sqrt(shares) / shift, rate, order)
    for a, b in ((mixed, p0), (p0, mixed)):
        exact = math.log(float((b * (a / b) ** order).sum())) / (order - 1)
        assert exact <= bound * (1 + 1e-6)


def test_the_pairwise_inequality_behind_the_lattice_bound() -> None:
    """Mironov, Talwar, Zhang 2019, theorem 5, pair by pair: x and its reflection v - x, with ratio r and 1 / r."""
    r = np.exp(np.linspace(0, 12, 2001))
    for q in (1e-4, 0.01, 0.1, 0.5, 0.9, 0.999):
        for order in (1.01, 2.0, 5.0, 16.0, 32.0):
            there, back = 1 - q + q * r, 1 - q + q / r
            forward = there**order + r * back**order
            backward = there ** (1 - order) + r * back ** (1 - order)
            assert (forward >= backward * (1 - 1e-12)).all()


def test_image_level_figures_are_wrong_for_a_patient_with_several_images() -> None:
    """A patient with k independently sampled images is a mixture of Gaussians: 3.98, 8.90, 20.9 instead of 1.83."""
    import dp_accounting
    from dp_accounting import dp_event, pld

    found = []
    for images in (1, 2, 4, 8):
        weights = [math.comb(images, k) * 0.01**k * 0.99 ** (images - k) for k in range(images + 1)]
        accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
        event = dp_event.MixtureOfGaussiansDpEvent(1.0, list(range(images + 1)), weights)
        found.append(accountant.compose(dp_accounting.SelfComposedDpEvent(event, 1000)).get_epsilon(1e-5))
    assert found == pytest.approx([1.83, 3.98, 8.90, 20.90], rel=0.01)


def test_an_accountant_that_is_made_again_each_round_forgets() -> None:
    rounds = [epsilon([gaussian(1.0, 0.02, 50 * n)], 1e-5) for n in (1, 2, 3)]
    assert rounds[0] < rounds[1] < rounds[2]
    forgetful = [epsilon([gaussian(1.0, 0.02, 50)], 1e-5) for _ in range(3)]
    assert forgetful[2] < rounds[2]


def test_like_releases_are_counted_together_and_order_does_not_matter() -> None:
    many = [gaussian(1.0, 0.1, 1)] * 7 + [discrete(2.0, 0.1, 3)] + [gaussian(1.0, 0.1, 2)]
    assert merged(many) == merged(reversed(many))  # type: ignore[arg-type]
    assert {r.count for r in merged(many)} == {9, 3}
    assert epsilon(many, 1e-5) == epsilon(list(reversed(many)), 1e-5)
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([gaussian(1.0, 0.1, 0)], 1e-5) == 0.0


def test_the_solved_noise_is_enough_and_a_step_less_is_not() -> None:
    for make in (gaussian, discrete):
        z = solve_noise(2.0, 1e-5, lambda z, make=make: [make(z, 0.05, 100)])
        assert epsilon([make(z, 0.05, 100)], 1e-5) <= 2.0
        assert epsilon([make(z - 0.002, 0.05, 100)], 1e-5) > 2.0


def test_an_epsilon_that_no_noise_reaches_is_an_error() -> None:
    with pytest.raises(JobError, match="epsilon"):
        solve_noise(0.01, 1e-5, lambda z: [gaussian(z, 0.1, 10), gaussian(1.0, 1.0, 1)])


def exact_lattice_epsilon(sigma: float, shift: int, rate: float, count: int, delta: float) -> float:
    """Return a lower bound on epsilon for one word of discrete noise: exact probabilities, losses rounded down."""
    from dp_accounting.pld import privacy_loss_distribution as distribution

    reach = int(14 * sigma) + shift
    x = np.arange(-reach, reach + 1)
    law = np.exp(-(x**2) / (2 * sigma**2))
    law /= law.sum()
    moved = np.exp(-((x - shift) ** 2) / (2 * sigma**2)) / np.exp(-(x**2) / (2 * sigma**2)).sum()
    mixed = (1 - rate) * law + rate * moved
    found = []
    for lower, upper in ((law, mixed), (mixed, law)):
        pld = distribution.from_two_probability_mass_functions(
            {int(k): float(np.log(p)) for k, p in zip(x, lower, strict=True) if p > 0},
            {int(k): float(np.log(p)) for k, p in zip(x, upper, strict=True) if p > 0},
            pessimistic_estimate=False,
            value_discretization_interval=1e-4,
        )
        found.append(pld.self_compose(count).get_epsilon_for_delta(delta))
    return float(max(found))


@pytest.mark.parametrize(
    ("shift", "z", "rate", "count"),
    [(15, 3.0, 0.054, 300), (40, 3.0, 0.054, 300), (30, 1.0, 0.01, 1000), (25, 0.8, 0.05, 100), (10, 4.0, 1.0, 8)],
)
def test_discrete_noise_costs_what_exact_sums_over_the_integers_say_and_hardly_more(
    shift: int, z: float, rate: float, count: int
) -> None:
    """From below: exact probabilities of the noise that sites add, its smoothing variance included."""
    sigma = math.sqrt((z * shift) ** 2 + SMOOTHING_VARIANCE)
    exact = exact_lattice_epsilon(sigma, shift, rate, count, 1e-5)
    counted = epsilon([discrete(z, rate, count)], 1e-5)
    assert exact <= counted <= exact * 1.04  # a part of it is the rounding of losses here
    assert counted < exact_lattice_epsilon(sigma * 0.9, shift, rate, count, 1e-5)  # a mutant: a tenth less noise
    assert counted <= renyi_epsilon([discrete(z, rate, count)], 1e-5)  # from above: the bound used before


def rounded_gaussian_gap(sigma: float, tau: float, shares: int, moved: float) -> float:
    """Return the largest |ln(sum of discrete Gaussians / randomly rounded continuous Gaussian)| over the integers.

    The continuous Gaussian of variance sigma^2 - tau^2 is rounded to y with probability in proportion to
    exp(-(y - x)^2 / (2 tau^2)); its centre `moved` is a whole number, and the rounding does not know it.
    """
    y = np.arange(-int(6 * sigma), int(6 * sigma) + 1)
    narrow = math.sqrt(sigma**2 - tau**2)
    x = np.linspace(-12 * sigma, 12 * sigma, 80_001)
    near = np.round(x)[:, None] + np.arange(-20, 21)[None, :]
    normaliser = np.exp(-((near - x[:, None]) ** 2) / (2 * tau**2)).sum(axis=1)
    density = np.exp(-((x - moved) ** 2) / (2 * narrow**2)) / (narrow * math.sqrt(2 * math.pi)) * (x[1] - x[0])
    rounded = np.array([(density * np.exp(-((k + moved - x) ** 2) / (2 * tau**2)) / normaliser).sum() for k in y])
    far = np.arange(-int(14 * sigma), int(14 * sigma) + 1)
    one = np.exp(-(far**2) * shares / (2 * sigma**2))
    one /= one.sum()
    law = one
    for _ in range(shares - 1):
        law = np.convolve(law, one)
    middle = len(law) // 2
    return float(np.abs(np.log(law[middle - y[-1] : middle + y[-1] + 1] / rounded)).max())


@pytest.mark.parametrize(("shares", "moved"), [(1, 0.0), (1, 3.0), (2, 5.0)])
def test_a_sum_of_discrete_gaussians_is_a_rounded_continuous_one(shares: int, moved: float) -> None:
    sigma = 8.0 * math.sqrt(shares)
    assert (
        rounded_gaussian_gap(sigma, math.sqrt(SMOOTHING_VARIANCE), shares, moved) < 1e-9
    )  # what the sums here can see
    narrow = rounded_gaussian_gap(sigma, 0.5, shares, moved)
    assert 1e-6 < narrow < 4 * math.exp(-2 * math.pi**2 * 0.25)  # too small a tau is seen, within the proof's bound


def test_the_gap_between_both_laws_is_negligible_for_the_largest_vector_and_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 1e6 * DISCRETE_GAP < 1e-16
    assert LARGEST_DIMENSION == 2**32
    plain = epsilon([discrete(3.0, 0.1, 100)], 1e-5)
    assert epsilon([gaussian(3.0, 0.1, 100)], 1e-5) == plain
    monkeypatch.setattr(accounting, "DISCRETE_GAP", 1e-3)
    accounting._epsilon.cache_clear()
    wide = epsilon([discrete(3.0, 0.1, 100)], 1e-5)
    accounting._epsilon.cache_clear()
    assert wide > plain + 0.2


def test_the_published_gain_over_the_bound_used_before() -> None:
    delta = 1 / 4708
    before = 3.267
    assert (
        renyi_epsilon([discrete(before, 0.054, 300)], delta)
        <= 1.0
        < renyi_epsilon([discrete(before - 0.002, 0.054, 300)], delta)
    )
    assert solve_noise(1.0, delta, lambda z: [discrete(z, 0.054, 300)]) == pytest.approx(2.954, abs=0.0015)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "count", "beside"),
    [
        (50.0, 1e-5, 0.5, 10**5, 0.0),
        (1.0, 1e-12, 0.5, 10**6, 0.0),
        (50.0, 1e-5, 1e-6, 10**6, 0.0),
        (50.0, 1e-5, 0.5, 10**5, 1e-9),
        (50.0, 1e-5, 0.5, 10**9, 0.0),
        (1e-9, 1e-5, 0.5, 10, 1e300),
    ],
)
def test_no_job_makes_the_accountant_expensive(
    target: float, delta: float, rate: float, count: int, beside: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is built is bounded before it is built: few distributions, none over a wide range or of very many releases."""
    built = []

    def counted(releases: tuple[Release, ...], delta: float, interval: float = accounting.PLD_INTERVAL) -> float:
        cells = 2 * renyi_epsilon(releases, 1e-15) / interval
        built.append((sum(r.count for r in releases), cells))
        return renyi_epsilon(releases, delta)

    monkeypatch.setattr(accounting, "pld_epsilon", counted)
    accounting._epsilon.cache_clear()
    with contextlib.suppress(JobError):  # some of these ask for what no noise reaches
        solve_noise(
            target,
            delta,
            lambda z: [gaussian(z, rate, count), *([gaussian(beside, 1.0, 2)] if beside else [])],
        )
    accounting._epsilon.cache_clear()
    assert len(built) <= 60
    assert all(releases <= accounting.PLD_COUNT and cells < 2**23 for releases, cells in built)
