"""Epsilon against published and recomputed values, and the lattice bound against exact sums."""

import math

import numpy as np
import pytest

from salus.common.errors import JobError
from salus.privacy.dp.accounting import (
    Release,
    _discrete_renyi,
    epsilon,
    generic_poisson_renyi,
    merged,
    pld_epsilon,
    renyi_epsilon,
    solve_noise,
)


def gaussian(z: float, q: float, count: int) -> Release:
    return Release(mechanism="gaussian", noise_multiplier=z, sampling_rate=q, count=count)


def discrete(z: float, q: float, count: int) -> Release:
    return Release(mechanism="discrete-gaussian", noise_multiplier=z, sampling_rate=q, count=count)


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (renyi_epsilon([gaussian(1.0, 0.01, 1000)], 1e-5), 2.1013),
        (pld_epsilon([gaussian(1.0, 0.01, 1000)], 1e-5), 1.828),
        (epsilon([gaussian(1.0, 0.01, 1000)], 1e-5), 1.828),
        (renyi_epsilon([gaussian(1.0, 0.01, 10_000)], 1e-5), 6.7127),
    ],
)
def test_reference_values_of_the_sampled_gaussian(value: float, reference: float) -> None:
    assert reference <= value <= reference * 1.005


@pytest.mark.parametrize(("z", "reference"), [(0.8, 4.371), (1.0, 2.450), (2.0, 0.9031)])
def test_reference_values_of_the_generic_bound_and_ours_is_below_it(z: float, reference: float) -> None:
    from dp_accounting import rdp

    orders = list(range(2, 65))
    curve = [1000 * generic_poisson_renyi(lambda a: a / (2 * z * z), 0.01, order) for order in orders]
    value = float(rdp.compute_epsilon(orders, curve, 1e-5)[0])
    assert reference <= value <= reference * 1.005
    ours = epsilon([discrete(z, 0.01, 1000)], 1e-5)
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
    bound = _discrete_renyi(sigma * math.sqrt(shares) / shift, rate, order)
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
