"""Privacy accounting: epsilon at a given delta for one patient, under adding or removing that patient.

Both kinds of noise are accounted for with the privacy loss distribution of the sampled Gaussian (Koskela, Jalko, Honkela 2020,
arXiv 1906.03049; Google's dp-accounting, which rounds upwards). For sums of discrete Gaussians this is proved in
docs/decisions/0005: up to a factor e^(+-`DISCRETE_GAP`) in each release, such a sum is a continuous Gaussian that was rounded
at random, provided that its variance exceeds the counted one by `SMOOTHING_VARIANCE` squared grid steps.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from salus.common.errors import JobError
from salus.common.strict import Strict

PLD_INTERVAL = 1e-4
COARSE_PLD_INTERVAL = 1e-3
SMALLEST_NOISE, LARGEST_NOISE = 0.2, 2000.0
INTERPOLATIONS = 8
NOISE_STEP = 1e-3  # noise multipliers are rounded up to it, so that all parties compute the same one

SMOOTHING_VARIANCE = 4.0  # tau squared with tau = 2 grid steps
LARGEST_DIMENSION = 2**32  # of a vector of discrete noise; MASKING counts its words in 32 bits
DISCRETE_GAP = 4.0 * LARGEST_DIMENSION * math.exp(-2 * math.pi**2 * SMOOTHING_VARIANCE)  # 9e-25 for each release

# Limits on the accountant's own cost, whatever the job; beyond these, a cheaper bound is used.
LARGEST_COUNT = 10**6  # releases of one job
PLD_COUNT = 10**5
PLD_EPSILON = 100.0  # memory grows with epsilon / interval
LEAST_COUNTED_NOISE = 1e-6  # below this there is no guarantee, and its square would underflow
INTEGER_ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)


class Release(Strict):
    """A number of releases of the same kind: noisy sums over sampled patients.

    Args:
        mechanism: ``gaussian``, or ``discrete-gaussian`` for sums of discrete shares.
        noise_multiplier: standard deviation of the total noise divided by the sensitivity to one patient.
        sampling_rate: probability with which a patient takes part in one release; 1 if all patients do.
        count: number of releases.
    """

    mechanism: Literal["gaussian", "discrete-gaussian"]
    noise_multiplier: Annotated[float, Field(gt=0)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    count: Annotated[int, Field(ge=0)]

    def times(self, count: int) -> "Release":
        """Return the same kind of release with another count."""
        return self.model_copy(update={"count": count})


def merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Return the same releases, grouped by kind, in a fixed order."""
    counts: dict[tuple[str, float, float], int] = {}
    for r in releases:
        key = (r.mechanism, r.noise_multiplier, r.sampling_rate)
        counts[key] = counts.get(key, 0) + r.count
    return tuple(
        Release(mechanism=m, noise_multiplier=z, sampling_rate=q, count=n)  # type: ignore[arg-type]
        for (m, z, q), n in sorted(counts.items())
        if n > 0
    )


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return an upper bound on the total epsilon of these releases; 0 for none.

    Args:
        delta: in (0, 1).

    Guarantees: takes at most a few seconds and a few hundred megabytes for any releases.
    """
    return _epsilon(merged(releases), delta, PLD_INTERVAL)


@functools.lru_cache(maxsize=4096)
def _epsilon(releases: tuple[Release, ...], delta: float, interval: float) -> float:
    if not releases:
        return 0.0
    gap = DISCRETE_GAP * sum(r.count for r in releases if r.mechanism == "discrete-gaussian")
    delta *= math.exp(-gap)
    value = renyi_epsilon(releases, delta)
    if value <= PLD_EPSILON and sum(r.count for r in releases) <= PLD_COUNT:
        value = min(value, pld_epsilon(releases, delta, interval))
    return value + 2 * gap


def pld_epsilon(releases: Sequence[Release], delta: float, interval: float = PLD_INTERVAL) -> float:
    """Return epsilon by the privacy loss distribution of sampled Gaussians; coarser intervals give larger values."""
    from salus.privacy.dp.gaussian_loss import gaussian_pld  # it imports much, and not every command counts epsilon

    total = None
    for release in releases:
        noise, rate, count = release.noise_multiplier, release.sampling_rate, release.count
        if rate == 1.0:  # many Gaussians of all patients are one with less noise
            part = gaussian_pld(noise / math.sqrt(count), rate, interval)
        else:
            part = gaussian_pld(noise, rate, interval).self_compose(count)
        total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


def renyi_epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return epsilon by Renyi divergences of integer order (Mironov 2017, arXiv 1702.07476): cheap, but a few percent larger.

    It does not depend on the smoothing argument: it holds for discrete noise directly (docs/decisions/0005).
    """
    from dp_accounting import rdp

    totals = [0.0] * len(INTEGER_ORDERS)
    for release in releases:
        for place, value in enumerate(_renyi_curve(release.noise_multiplier, release.sampling_rate)):
            totals[place] += value * release.count
    return max(0.0, float(rdp.compute_epsilon(INTEGER_ORDERS, totals, delta)[0]))


@functools.lru_cache(maxsize=4096)
def _renyi_curve(noise_multiplier: float, sampling_rate: float) -> tuple[float, ...]:
    return tuple(renyi_divergence(noise_multiplier, sampling_rate, order) for order in INTEGER_ORDERS)


def renyi_divergence(noise_multiplier: float, sampling_rate: float, order: int) -> float:
    """Return the Renyi divergence of one release of sampled patients: exact for a Gaussian, a bound for a discrete one.

    Why it holds on a lattice: given the other patients and all random choices, one patient shifts the noise distribution P0
    by an integer vector v to P1 with probability q. The reflection x -> v - x maps the lattice to itself and exchanges P0
    and P1, so the divergence of (1 - q) P0 + q P1 from P0 is the larger of the two directions (Mironov, Talwar, Zhang 2019, arXiv
    1908.10530, theorem 5). It is a binomial sum of moments E[(P1 / P0)^k], and those are at most exp(k (k - 1) / (2 z^2)) by
    the zCDP of the discrete Gaussian (Canonne, Kamath, Steinke 2020, arXiv 2004.00010).
    """
    if noise_multiplier < LEAST_COUNTED_NOISE:
        return math.inf
    inverse = 1.0 / noise_multiplier
    if sampling_rate == 1.0:
        return order * inverse * inverse / 2
    log_q, log_rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    terms = [
        _log_choose(order, k) + (order - k) * log_rest + k * log_q + k * (k - 1) * inverse * inverse / 2
        for k in range(order + 1)
    ]
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def solve_noise(target_epsilon: float, delta: float, releases: Callable[[float], Sequence[Release]]) -> float:
    """Return the smallest noise multiplier, in steps of 0.001, with which `releases` cost at most `target_epsilon`.

    Raises:
        JobError: no noise suffices because other releases of the job already cost more, or there are too many releases.
    """
    count = sum(r.count for r in releases(1.0))
    if count > LARGEST_COUNT:
        raise JobError(
            f"Expected at most {LARGEST_COUNT} noised steps in a job, got {count}.",
            remedy="Lower job.rounds, privacy.steps_per_round or training.local_epochs, or raise privacy.sampling_rate.",
        )

    def under(bound: Callable[[tuple[Release, ...]], float]) -> Callable[[int], float]:
        return lambda steps: bound(merged(releases(steps * NOISE_STEP)))

    # Each bound is at least as large as the next one, so its answer is safe, and the next search only looks below it.
    coarse, fine = (under(lambda r, i=i: _epsilon(r, delta, i)) for i in (COARSE_PLD_INTERVAL, PLD_INTERVAL))  # type: ignore[misc]
    high = _at_least(round(SMALLEST_NOISE / NOISE_STEP), under(lambda r: renyi_epsilon(r, delta)), target_epsilon)
    high, found = _at_most(high, coarse(high), coarse, target_epsilon)
    high, _ = _at_most(high, found, fine, target_epsilon)
    return round(high * NOISE_STEP, 6)


def _at_least(low: int, cost: Callable[[int], float], target: float) -> int:
    """Return the smallest number from `low` upwards whose cost, which falls, is at most `target`."""
    high = low
    while cost(high) > target:
        low, high = high, high * 2
        if high * NOISE_STEP > LARGEST_NOISE:
            raise JobError(
                "No amount of noise reaches the job's epsilon.",
                remedy="Raise privacy.epsilon, or lower privacy.evaluation_share.",
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def _at_most(high: int, high_cost: float, cost: Callable[[int], float], target: float) -> tuple[int, float]:
    """Return the smallest number up to `high`, which fits, whose cost is at most `target`; and its cost, or a bound on it.

    A cost takes long to compute and falls about as a power of the noise, so the next place to look is interpolated, and after
    `INTERPOLATIONS` of them halved. Each answer narrows the interval, so the result does not depend on the interpolation.
    """
    low, low_cost = round(SMALLEST_NOISE / NOISE_STEP) - 1, math.inf  # smaller ones are never used
    power = -1.0
    for looked in itertools.count():
        if high - low <= 1:
            return high, high_cost
        place = (low + high) // 2
        if looked < INTERPOLATIONS and high_cost > 0:
            if math.isfinite(low_cost):
                power = math.log(high_cost / low_cost) / math.log(high / low) or -1.0
            place = round(high * math.exp(min(0.0, math.log(target / high_cost) / power)))
        place = min(max(place, low + 1), high - 1)
        found = cost(place)
        if found <= target:
            high, high_cost = place, found
        else:
            low, low_cost = place, found
    raise AssertionError("unreachable")
