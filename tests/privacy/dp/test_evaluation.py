"""What an evaluation costs and how much noise its sum carries: the charge covers what is sent, in both modes."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy import stats
from tests.builders import tiny_job

from salus.common.batch import Batch
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.tasks import make_task
from salus.privacy.contribution import Contribution
from salus.privacy.dp.accounting import epsilon
from salus.privacy.dp.plan import EVALUATION_ATTEMPTS, plan_of, sensitivity_l2, spent
from salus.privacy.masking.noise import add_discrete_noise
from salus.privacy.masking.protection import noise_share
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.protocol.encoding import decode, encode
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.randomness import Stream
from salus.privacy.shapes import shape_of

ALPHA = 1e-6


def job_of(noise: str, share: float | None = None) -> Job:
    wanted = "" if share is None else f"evaluation_share = {share}"
    return tiny_job(protection="masking", privacy=f'noise = "{noise}"\n{wanted}')


@pytest.mark.parametrize("noise", ["local", "distributed"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_evaluation_alone_costs_its_share_and_all_together_the_job(noise: str, share: float) -> None:
    job = job_of(noise, share)
    plan = plan_of(job)
    assert plan is not None
    attempts = EVALUATION_ATTEMPTS[plan.mode]
    alone = epsilon([plan.charge("evaluate").times(attempts)], plan.delta)
    assert 0.97 * share * plan.epsilon < alone <= share * plan.epsilon
    assert 0.95 * plan.epsilon < spent(plan, plan.attempts, attempts) <= plan.epsilon
    assert plan.reserved()[-1] == plan.charge("evaluate").times(attempts)


def test_without_a_share_nothing_is_evaluated_and_training_gets_all() -> None:
    none, some = plan_of(job_of("local", 0.0)), plan_of(job_of("local"))
    assert none is not None
    assert some is not None
    assert none.evaluation_noise_multiplier == 0.0
    assert len(none.reserved()) == 1
    assert none.noise_multiplier < some.noise_multiplier < 1.2 * none.noise_multiplier
    with pytest.raises(JobError, match="evaluation_share"):
        shape_of(job_of("local", 0.0), "evaluate", 10, make_task(job_of("local").task))


def test_one_patient_more_moves_a_sites_vector_by_less_than_was_charged_for() -> None:
    """Brute force: random sites with and without each of their patients, images of a patient averaged as the trainer does."""
    job = job_of("local")
    task = make_task(job.task)
    generator = torch.Generator().manual_seed(3)

    def vector(patients: Mapping[int, torch.Tensor], labels: Mapping[int, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(task.private_statistics_size, dtype=torch.float64)
        for number, logits in patients.items():
            mean = task.private_rows(logits, Batch({"label": labels[number]})).mean(dim=0)
            total += mean / max(1.0, float(mean.norm()))
        return total

    largest = 0.0
    for _ in range(40):
        patients = {n: torch.randn(1 + n % 4, 2, generator=generator) * 3 for n in range(8)}
        labels = {n: torch.randint(0, 2, (len(p),), generator=generator) for n, p in patients.items()}
        whole = vector(patients, labels)
        for gone in patients:
            rest = {n: p for n, p in patients.items() if n != gone}
            largest = max(largest, float((whole - vector(rest, labels)).norm()))
    assert largest <= sensitivity_l2(job, "evaluate")
    assert largest > 0.999  # reached, so half of it would be caught


def drawn_sum(job: Job, roster: int, sites: int, draws: int) -> np.ndarray:
    """Return the noise in sums as sites make them, distributed mode."""
    shape = shape_of(job, "evaluate", 10, make_task(job.task))
    encoding, share = noise_share(job, shape, roster)
    random = np.random.default_rng(4).bytes
    stream = Stream(random)
    sums = []
    for _ in range(draws):
        total = np.zeros(shape.length, dtype=np.uint32)
        for _ in range(sites):
            words = encode(Contribution(np.zeros(shape.parameters), 1.0, np.zeros(0)), shape, encoding, random)
            add_discrete_noise(words[: shape.parameters], share, stream)
            total += words
        sums.append(decode(total, encoding)[: shape.parameters])
    return np.concatenate(sums)


def fits(values: np.ndarray, sd: float) -> bool:
    statistic, count = float((values**2).sum()) / sd**2, len(values)
    return bool(2 * min(stats.chi2.cdf(statistic, count), stats.chi2.sf(statistic, count)) > ALPHA)


def test_distributed_noise_in_a_sum_is_what_is_said_also_when_sites_drop_out() -> None:
    job = job_of("distributed")
    shape = shape_of(job, "evaluate", 10, make_task(job.task))
    for sites in (5, 8):
        said = noise_in_sum(job, shape, roster=8, sites=sites)
        values = drawn_sum(job, 8, sites, 60)
        assert fits(values, said)
        assert not fits(values, 0.8 * said)  # must reject: all shares counted on instead of those that came
    plan = plan_of(job)
    assert plan is not None
    honest = thresholds(8, noised=True).honest
    assert noise_in_sum(job, shape, roster=8, sites=honest) == pytest.approx(plan.evaluation_noise_multiplier, rel=1e-3)


def test_local_noise_in_a_sum_is_that_of_all_its_sites() -> None:
    job = job_of("local")
    plan, shape = plan_of(job), shape_of(job, "evaluate", 10, make_task(job.task))
    assert plan is not None
    assert noise_in_sum(job, shape, roster=9, sites=4) == pytest.approx(2 * plan.evaluation_noise_multiplier, rel=1e-3)
    assert noise_in_sum(tiny_job(), shape, roster=9, sites=4) == 0.0


def test_the_bound_on_the_vector_leaves_room_for_the_noise() -> None:
    job = job_of("local")
    plan, shape = plan_of(job), shape_of(job, "evaluate", 10, make_task(job.task))
    assert plan is not None
    noise = plan.evaluation_noise_multiplier * (shape.parameters**0.5 + 8)
    assert shape.clip_norm_l2 >= job.aggregation.max_patients + noise
