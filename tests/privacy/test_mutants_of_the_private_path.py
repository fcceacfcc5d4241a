"""The table of docs/audit.md, row by row: each fault is put into the private path, and the named check must reject it.

Every check also passes on the code as it is. Statistical checks reject honest code with a chance of `ALPHA` at most (1e-6), so a
failure of `test_the_code_as_it_is_passes` is a fault and not chance.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.test_private_sampling import (
    Recorded,
    each_step_has_its_own_sample,
    noise_beyond_the_first_words,
    private_of,
    rate_is_the_plans,
)
from tests.client.test_private_sampling import job_of as sampling_job
from tests.privacy.dp.items import batch_of, loss
from tests.privacy.dp.test_clipping import ClipAfterAveraging, ImageInsteadOfPatient, OneLayerNotClipped, flat
from tests.privacy.dp.test_mutants import SIGMA, SOURCES, epsilon, never_below_the_exact_one, noise_is_everywhere
from tests.privacy.dp.test_rows import AllOrNothing

from salus.client import private_training
from salus.common.vectors import read_parameters
from salus.privacy.dp import accounting
from salus.privacy.dp import gaussian as gaussian_module
from salus.privacy.dp import optimizer as optimizer_module
from salus.privacy.dp.clipped import looped_sum
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.gaussian import gaussian, noised
from salus.privacy.dp.sampling import poisson_sample
from salus.privacy.masking import noise as masked_noise
from salus.privacy.randomness import Stream

ROOT = Path(__file__).resolve().parents[2]
Patch = pytest.MonkeyPatch


# The checks, each of the product's own objects.


def noise_is_the_plans() -> bool:
    """Without patients, an update of one step is noise of the plan's standard deviation over the expected patients."""
    private = private_of(sampling_job(shape=(64, 64)), "local")
    start = read_parameters(private._trainer.model, private._trainer.layout)
    scale = private.train(start, None) * 0.2 * 300
    return bool(abs(float(np.sqrt((scale**2).mean())) - 1) < 5 / np.sqrt(2 * len(scale)))  # five standard errors


def direction_is_the_plain_loops() -> bool:
    """The sum over all patients is that of a plain loop: each patient's gradient, clipped once."""
    numbers = [0, 0, 1, 2, 2, 2, 3, 4, 4]
    private = private_of(sampling_job(model="cnn"), rate=1.0)
    data: Any = Recorded(numbers)
    data.inputs = data.inputs * 4
    model = private._trainer.model
    found = private.direction(read_parameters(model, private._trainer.layout), data)
    job = private._trainer.job
    expected = flat(looped_sum(model, loss, *batch_of(data.inputs, data.targets, numbers), job.privacy.clip_norm_l2))
    return bool(np.linalg.norm(found + expected.numpy()) < 1e-4 * float(expected.norm()))


def one_patient_does_not_decide_for_others() -> bool:
    """A patient with huge values moves the sum by the clip norm at most."""
    private = private_of(sampling_job(), rate=1.0)
    start = read_parameters(private._trainer.model, private._trainer.layout)
    data: Any = Recorded(list(range(24)))
    data.inputs[5] *= 1e20
    whole = private.direction(start, data)
    data.hidden = {5}
    change = float(np.linalg.norm(whole - private.direction(start, data)))
    return change <= private._trainer.job.privacy.clip_norm_l2 * (1 + 2.0**-10)


def masked_noise_is_the_plans() -> bool:
    """What a site adds to its words has the standard deviation that the accountant counts."""
    values = SOURCES["words of a masked sum"]() / SIGMA
    return bool(abs(float(values.std()) - 1) < 5 / np.sqrt(2 * len(values))) and noise_is_everywhere(values * SIGMA)


def sites_share_no_noise() -> bool:
    """Two sites' updates without patients are not correlated."""
    updates = []
    for seed in (1, 2):
        private = private_of(sampling_job(shape=(64, 64)), "local")
        private._random = np.random.default_rng(seed).bytes
        updates.append(private.train(read_parameters(private._trainer.model, private._trainer.layout), None))
    return bool(abs(np.corrcoef(*updates)[0, 1]) < 6 / np.sqrt(len(updates[0])))


def releases_cost_the_exact_amount() -> bool:
    accounting._renyi_curve.cache_clear()
    accounting._epsilon.cache_clear()
    try:
        return never_below_the_exact_one(epsilon)
    finally:
        accounting._renyi_curve.cache_clear()
        accounting._epsilon.cache_clear()


CHECKS: dict[str, Callable[[], bool]] = {
    "noise of the plan": noise_is_the_plans,
    "sum of the plain loop": direction_is_the_plain_loops,
    "one patient among others": one_patient_does_not_decide_for_others,
    "rate of the plan": lambda: rate_is_the_plans("train"),
    "a sample for each step": each_step_has_its_own_sample,
    "noise in every parameter": lambda: abs(noise_beyond_the_first_words() - 1) < 0.02,
    "noise in every word": lambda: noise_is_everywhere(SOURCES["noised"]()),
    "noise in a masked sum": masked_noise_is_the_plans,
    "noise of two sites": sites_share_no_noise,
    "cost of a release": releases_cost_the_exact_amount,
}


# The faults.


def scaled_noise(factor: float) -> Callable[[Patch], None]:
    def change(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
        return noised(values, sigma * factor, stream) if factor else values

    return lambda patch: patch.setattr(optimizer_module, "noised", change)


def clipper(kind: type[FastClipper]) -> Callable[[Patch], None]:
    def made(model: Any, task: Any, step: Any) -> FastClipper:
        return kind(model, lambda network, batch: task.losses(network, batch, step))

    return lambda patch: patch.setattr(private_training, "checked_clipper", made)


class EachRunByItself(FastClipper):
    """Mutant: as if two equal runs of a layer were taken for two norms."""

    def _collect(self, batch, patients):  # type: ignore[no-untyped-def]
        collected = super()._collect(batch, patients)
        for part in collected.values():
            part.squared_norms = part.squared_norms / 2
        return collected


def twice_the_rate(patch: Patch) -> None:
    patch.setattr(private_training, "poisson_sample", lambda n, q, stream: poisson_sample(n, 2 * q, stream))


def one_sample(patch: Patch) -> None:
    kept: list[np.ndarray] = []

    def once(patients: int, rate: float, stream: Stream) -> np.ndarray:
        kept.append(poisson_sample(patients, rate, stream))
        return kept[0]

    patch.setattr(private_training, "poisson_sample", once)


def words(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Patch], None]:
    def altered(count: int, sigma: float, stream: Stream) -> torch.Tensor:
        return change(gaussian(count, sigma, stream))

    return lambda patch: patch.setattr(gaussian_module, "gaussian", altered)


def first_only(values: torch.Tensor) -> torch.Tensor:
    values[65_536:] = 0
    return values


def not_the_last(values: torch.Tensor) -> torch.Tensor:
    values[-2000:] = 0
    return values


def the_first_again(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.resize(values[:65_536].numpy(), len(values)))


def the_same_seed(patch: Patch) -> None:
    patch.setattr(private_training, "Stream", lambda random: Stream(lambda count: bytes(count)))


def half_the_cost(patch: Patch) -> None:
    right = accounting.renyi_divergence
    patch.setattr(
        accounting, "renyi_divergence", lambda z, rate, order: right(z, rate, order) / (2 if rate == 1.0 else 1)
    )


def a_tenth_less(patch: Patch) -> None:
    right = masked_noise.DiscreteGaussian
    patch.setattr(masked_noise, "DiscreteGaussian", lambda sigma, stream: right(0.9 * sigma, stream))


@dataclass(frozen=True)
class Mutant:
    """A fault, and the check that must reject it."""

    fault: str
    put: Callable[[Patch], None]
    check: str


MUTANTS = (
    Mutant("no noise", scaled_noise(0.0), "noise of the plan"),
    Mutant("a tenth of the noise", scaled_noise(0.1), "noise of the plan"),
    Mutant("half the noise", scaled_noise(0.5), "noise of the plan"),
    Mutant("an image instead of a patient is clipped", clipper(ImageInsteadOfPatient), "sum of the plain loop"),
    Mutant("clipping after averaging", clipper(ClipAfterAveraging), "sum of the plain loop"),
    Mutant("a layer is forgotten in the norm", clipper(OneLayerNotClipped), "sum of the plain loop"),
    Mutant("the norm of each run of a layer by itself", clipper(EachRunByItself), "sum of the plain loop"),
    Mutant("one patient's overflow takes the batch with it", clipper(AllOrNothing), "one patient among others"),
    Mutant("twice the sampling rate", twice_the_rate, "rate of the plan"),
    Mutant("one sample for all steps of a round", one_sample, "a sample for each step"),
    Mutant("noise on the first words only", words(first_only), "noise in every parameter"),
    Mutant("the last words without noise", words(not_the_last), "noise in every word"),
    Mutant("the first noise again", words(the_first_again), "noise in every word"),
    Mutant("every site begins from the same seed", the_same_seed, "noise of two sites"),
    Mutant("half the cost of a release", half_the_cost, "cost of a release"),
    Mutant("a tenth less noise than the accountant assumes", a_tenth_less, "noise in a masked sum"),
)


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_as_it_is_passes(check: str) -> None:
    assert CHECKS[check]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_each_fault_is_rejected_by_its_check(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.put(monkeypatch)
    assert not CHECKS[mutant.check]()


def test_the_table_of_the_documentation_names_these_faults_and_no_other() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    table = page[page.index("| fault |") :]
    rows = re.findall(r"^\| ([^|]+?) \|[^|]*\|[^|]*\|$", table, re.M)
    named = [fault for row in rows[1:] for fault in row.split("; ")]
    assert sorted(named) == sorted(mutant.fault for mutant in MUTANTS)
