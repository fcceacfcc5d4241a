"""`salus job validate`: what a job costs each patient is said before anybody submits it."""

from pathlib import Path

import pytest
from tests.builders import job_text
from tests.cli import salus

from salus.common.job import parse_job
from salus.privacy.dp.plan import BUDGET_EPSILON, budget_cost, plan_of


def validated(folder: Path, privacy: str) -> str:
    path = folder / "job.toml"
    path.write_text(job_text(protection="masking", privacy=privacy))
    result = salus("job", "validate", str(path))
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


def test_the_cost_is_counted_at_the_budgets_delta_and_shown_as_a_share(tmp_path: Path) -> None:
    privacy = 'noise = "local"\nepsilon = 3.0\ndelta = 2e-4'
    plan = plan_of(parse_job(job_text(protection="masking", privacy=privacy)))
    assert plan is not None
    cost = budget_cost(plan)
    assert cost > 3.1  # epsilon is larger at a smaller delta, and that is what the sites' ledgers count
    shown = validated(tmp_path, privacy)
    assert f"epsilon {cost:.2f} at delta 1e-05: {cost / BUDGET_EPSILON:.0%}" in shown
    assert "refuse" not in shown


def test_a_job_beyond_the_default_budget_says_so(tmp_path: Path) -> None:
    assert "will refuse" in validated(tmp_path, 'noise = "local"\nepsilon = 12.0')


def test_a_job_without_noise_has_no_cost(tmp_path: Path) -> None:
    assert "cost" not in validated(tmp_path, 'noise = "none"')


@pytest.mark.parametrize("name", ["pneumonia-private.toml"])
def test_the_private_sample_job_leaves_most_of_a_patients_year(name: str) -> None:
    from salus.common.job import load_job

    plan = plan_of(load_job(Path(__file__).resolve().parents[2] / "simulations" / "jobs" / name))
    assert plan is not None
    assert budget_cost(plan) <= 0.35 * BUDGET_EPSILON


def test_every_transform_says_what_it_gives(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    steps = ('kind = "spacing"\nmm = [1.0, 1.0]', 'kind = "center-crop"')
    path.write_text(
        job_text(protection="masking", privacy='noise = "none"')
        + "".join(f"\n[[task.transforms]]\n{step}\n" for step in steps)
    )
    result = salus("job", "validate", str(path))
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.replace("│", " ").split())
    assert "transforms[0] spacing image 1 x ? x ?" in shown
    assert "transforms[1] center-crop image 1 x 8 x 8" in shown
