"""From a job to its noise: steps and attempts that are paid for, and what a job may ask of the accountant."""

import pytest
from tests.builders import tiny_job

from salus.common.errors import JobError
from salus.common.tasks import make_task
from salus.privacy.dp.accounting import epsilon
from salus.privacy.dp.plan import Plan, plan_of
from salus.privacy.shapes import shape_of


def plan(rounds: int = 10, **privacy: object) -> Plan:
    section = "\n".join(f"{key} = {value}" for key, value in {"noise": '"local"', **privacy}.items())
    found = plan_of(tiny_job(rounds=rounds, protection="masking", privacy=section))
    assert found is not None
    return found


@pytest.mark.parametrize("noise", ['"local"', '"distributed"'])
def test_a_round_is_one_step_and_everything_reserved_costs_the_jobs_epsilon(noise: str) -> None:
    found = plan(noise=noise, epsilon=2.0)
    assert (found.steps, found.attempts) == (1, 11)
    assert found.charge("train").count == 1
    assert 1.9 < epsilon(found.reserved(), found.delta) <= 2.0


def test_more_steps_in_a_round_are_charged_with_every_round_and_need_more_noise() -> None:
    one, many = plan(), plan(steps_per_round=30)
    assert many.charge("train").count == 30
    assert sum(r.count for r in many.reserved()) - sum(r.count for r in one.reserved()) == 29 * 11
    assert many.noise_multiplier > one.noise_multiplier


def test_the_same_steps_cost_the_same_however_they_are_divided_into_rounds() -> None:
    spread, packed = plan(300, spare_rounds=0.0), plan(15, steps_per_round=20, spare_rounds=0.0)
    assert spread.noise_multiplier == packed.noise_multiplier


def test_both_modes_need_the_same_noise() -> None:
    assert plan(noise='"distributed"').noise_multiplier == plan(noise='"local"').noise_multiplier


def test_the_noise_of_a_large_network_is_not_cut_back() -> None:
    """Found here: beyond about a million parameters the noise of a step alone is longer than an update may be."""
    job = tiny_job(protection="masking", privacy='noise = "local"\npatients_per_site = 100\nepsilon = 1.0')
    found, parameters = plan_of(job), 11_000_000
    assert found is not None
    noise = found.noise_multiplier * job.privacy.clip_norm_l2 / (0.05 * 100) * parameters**0.5
    assert noise > job.aggregation.update_clip_norm_l2
    assert (
        shape_of(job, "train", parameters, make_task(job.task)).clip_norm_l2
        > noise + job.aggregation.update_clip_norm_l2
    )
    several = tiny_job(protection="masking", privacy='noise = "local"\nsteps_per_round = 2')
    assert shape_of(several, "train", parameters, make_task(several.task)).clip_norm_l2 == 100.0


@pytest.mark.parametrize(
    ("rounds", "privacy", "named"),
    [
        (10_000, {"steps_per_round": 10_000}, "noised steps"),
        (10, {"epsilon": 1e6}, "epsilon"),
        (10, {"delta": 1e-300}, "delta"),
        (10, {"sampling_rate": 1e-300}, "sampling_rate"),
        (10, {"epsilon": 1e-9}, "No amount of noise"),
    ],
)
def test_small_files_cannot_ask_for_large_computations(rounds: int, privacy: dict[str, object], named: str) -> None:
    with pytest.raises(JobError, match=named):
        plan(rounds, **privacy)
