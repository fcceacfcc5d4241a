"""The privacy loss distribution of a sampled Gaussian against dp-accounting, which computes it value by value."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.privacy.dp.accounting import Release, pld_epsilon
from salus.privacy.dp.gaussian_loss import deltas_of, gaussian_pld


def both(noise: float, rate: float, adjacency: AdjacencyType, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the library's deltas and ours at multiples of a step over the whole range of losses."""
    loss = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=adjacency)
    bounds = loss.connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / step), math.ceil(bounds.epsilon_upper / step)
    epsilons = np.arange(low, high + 1, max(1, (high - low) // 200)) * step
    return loss.get_delta_for_epsilon(epsilons), deltas_of(loss, noise, epsilons)


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize(
    ("noise", "rate"), [(0.2, 0.5), (0.5, 0.999), (0.7, 0.01), (1.0, 0.3), (5.0, 1.0), (2.0, 1e-4), (300.0, 1e-6)]
)
def test_deltas_are_those_of_the_library(noise: float, rate: float, adjacency: AdjacencyType) -> None:
    theirs, ours = both(noise, rate, adjacency, 1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)
    assert ours.max() > 1e-12, "nothing was compared"


@settings(max_examples=30)
@given(
    noise=st.floats(0.2, 50.0),
    rate=st.floats(1e-4, 1.0),
    adjacency=st.sampled_from([AdjacencyType.ADD, AdjacencyType.REMOVE]),
    step=st.floats(1e-4, 1e-2),
)
def test_deltas_are_those_of_the_library_whatever_the_mechanism(
    noise: float, rate: float, adjacency: AdjacencyType, step: float
) -> None:
    theirs, ours = both(noise, rate, adjacency, step)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)


def test_adding_and_removing_a_sampled_patient_are_told_apart() -> None:
    pair = gaussian_pld(0.7, 0.1, 1e-3)
    assert pair._pmf_remove.get_delta_for_epsilon(1.0) > 2 * pair._pmf_add.get_delta_for_epsilon(1.0)


def test_the_epsilon_of_a_whole_job_is_that_of_the_library() -> None:
    kinds = [(1.1, 0.02, 500), (3.0, 1.0, 7), (0.8, 0.3, 2)]
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    releases = []
    for noise, rate, count in kinds:
        event = GaussianDpEvent(noise)
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, event) if rate < 1 else event, count))
        releases.append(Release(mechanism="gaussian", noise_multiplier=noise, sampling_rate=rate, count=count))
    assert pld_epsilon(releases, 1e-5, 1e-3) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-7)
    assert pld_epsilon([], 1e-5) == 0.0
