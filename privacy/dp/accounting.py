"""What releases cost: epsilon at a given delta for one patient, under adding or removing that patient.

Local noise is Gaussian and counted by its privacy loss distribution (Koskela et al. 2020, arXiv 1906.03049; Google's
dp-accounting, which rounds to the safe side). Distributed noise is a sum of discrete Gaussians and counted by the zCDP of
the discrete Gaussian (Canonne, Kamath, Steinke 2020, arXiv 2004.00010) with a subsampling bound proven for noise on a
lattice (`_discrete_renyi`), never by a one-dimensional accountant: no single number describes a shift of a lattice.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from salus.common.errors import JobError
from salus.common.strict import Strict

INTEGER_ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)
PLD_INTERVAL = 1e-4
COARSE_PLD_INTERVAL = 1e-3
SMALLEST_NOISE, LARGEST_NOISE = 0.2, 2000.0
NOISE_STEP = 1e-3  # noise multipliers are rounded up to it, so that all parties compute the same one


class Release(Strict):
    """A number of like releases of sums over sampled patients.

    Args:
        mechanism: ``gaussian``, or ``discrete-gaussian`` for sums of discrete shares.
        noise_multiplier: standard deviation of the whole noise over the largest change by one patient.
        sampling_rate: probability with which a patient takes part in one of them; 1 where all do.
        count: how many.
    """

    mechanism: Literal["gaussian", "discrete-gaussian"]
    noise_multiplier: Annotated[float, Field(gt=0)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    count: Annotated[int, Field(ge=0)]

    def times(self, count: int) -> "Release":
        """Return this many of them instead."""
        return self.model_copy(update={"count": count})


def merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Return the same releases with like ones counted together, in a fixed order."""
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
    """Return the epsilon of all these releases together, an upper bound; 0 for none.

    Args:
        delta: in (0, 1).
    """
    return _epsilon(merged(releases), delta, PLD_INTERVAL)


@functools.lru_cache(maxsize=4096)
def _epsilon(releases: tuple[Release, ...], delta: float, interval: float) -> float:
    if not releases:
        return 0.0
    if any(r.mechanism != "gaussian" for r in releases):
        return renyi_epsilon(releases, delta)
    return pld_epsilon(releases, delta, interval)


def renyi_epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return epsilon by Renyi divergences (Mironov 2017, arXiv 1702.07476), for any mixture of mechanisms."""
    from dp_accounting import rdp

    discrete = any(r.mechanism != "gaussian" for r in releases)
    orders = list(INTEGER_ORDERS) if discrete else list(rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS)
    totals = [0.0] * len(orders)
    for release in releases:
        for place, value in enumerate(_renyi_curve(release, tuple(orders))):
            totals[place] += value * release.count
    return max(0.0, float(rdp.compute_epsilon(orders, totals, delta)[0]))


@functools.lru_cache(maxsize=4096)
def _renyi_curve(release: Release, orders: tuple[float, ...]) -> tuple[float, ...]:
    from dp_accounting import rdp

    if release.mechanism == "discrete-gaussian":
        return tuple(_discrete_renyi(release.noise_multiplier, release.sampling_rate, int(a)) for a in orders)
    accountant = rdp.RdpAccountant(orders=list(orders))
    accountant.compose(_event(release.times(1)))
    return tuple(float(value) for value in accountant._rdp)


def _discrete_renyi(noise_multiplier: float, sampling_rate: float, order: int) -> float:
    """Return a bound on the Renyi divergence of one release of sampled patients with noise Y on the integers' lattice.

    Why it holds. Given the other patients and all coins, one patient moves the noise's law P0 by a whole vector v to P1 with
    probability q. The reflection x -> v - x maps the lattice to itself and exchanges P0 and P1, so the divergence of
    (1 - q) P0 + q P1 from P0 is the larger of the two directions (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, theorem
    5). It is a binomial sum of moments E[(P1 / P0)^k], and those are at most exp(k (k - 1) / (2 z^2)) by the zCDP of the
    discrete Gaussian. The generic bound (`generic_poisson_renyi`) asks for no symmetry and is three times looser in
    most terms; where many patients are sampled it asks for ten times the noise.
    """
    if sampling_rate == 1.0:
        return order / (2 * noise_multiplier**2)
    log_q, log_rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    terms = [
        _log_choose(order, k) + (order - k) * log_rest + k * log_q + k * (k - 1) / (2 * noise_multiplier**2)
        for k in range(order + 1)
    ]
    return _log_sum(terms) / (order - 1)


def generic_poisson_renyi(plain: Callable[[int], float], sampling_rate: float, order: int) -> float:
    """Return the bound for Poisson sampling before any mechanism (Zhu and Wang 2019, theorem 6).

    Args:
        plain: Renyi divergence of the mechanism without sampling, by integer order.
    """
    q, log_q, log_rest = sampling_rate, math.log(sampling_rate), math.log1p(-sampling_rate)
    terms = [
        (order - 1) * log_rest + math.log(order * q - q + 1),
        _log_choose(order, 2) + 2 * log_q + (order - 2) * log_rest + plain(2),
    ]
    for k in range(3, order + 1):
        terms.append(math.log(3) + _log_choose(order, k) + (order - k) * log_rest + k * log_q + (k - 1) * plain(k))
    return _log_sum(terms) / (order - 1)


def _log_sum(terms: Sequence[float]) -> float:
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def pld_epsilon(releases: Sequence[Release], delta: float, interval: float = PLD_INTERVAL) -> float:
    """Return epsilon by the privacy loss distribution; Gaussian releases only. Coarser intervals give larger values."""
    from dp_accounting import pld

    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    for release in releases:
        if release.mechanism != "gaussian":
            raise ValueError("expected Gaussian releases only")
        accountant.compose(_event(release))
    return float(accountant.get_epsilon(delta))


def _event(release: Release):  # type: ignore[no-untyped-def]  # dp_accounting has no types
    import dp_accounting

    event = dp_accounting.GaussianDpEvent(release.noise_multiplier)
    if release.sampling_rate < 1.0:
        event = dp_accounting.PoissonSampledDpEvent(release.sampling_rate, event)
    return dp_accounting.SelfComposedDpEvent(event, release.count)


def solve_noise(target_epsilon: float, delta: float, releases: Callable[[float], Sequence[Release]]) -> float:
    """Return the smallest noise multiplier, in steps of 0.001, with which `releases` cost at most `target_epsilon`.

    Raises:
        JobError: no noise suffices, because something else in the job costs more already.
    """

    def fits(steps: int, interval: float) -> bool:
        return _epsilon(merged(releases(steps * NOISE_STEP)), delta, interval) <= target_epsilon

    # The coarse distribution never says less, so its answer is safe; the fine one then only lowers it.
    low, high = _bisect(round(SMALLEST_NOISE / NOISE_STEP), None, lambda s: fits(s, COARSE_PLD_INTERVAL))
    while high > low and fits(high - 1, PLD_INTERVAL):
        high -= 1
    return round(high * NOISE_STEP, 6)


def _bisect(low: int, high: int | None, fits: Callable[[int], bool]) -> tuple[int, int]:
    floor = low
    if high is None:
        high = low
        while not fits(high):
            low, high = high, high * 2
            if high * NOISE_STEP > LARGEST_NOISE:
                raise JobError(
                    "No amount of noise reaches the job's epsilon.",
                    remedy="Raise privacy.epsilon, or the evaluation's noise.",
                )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return floor, high
