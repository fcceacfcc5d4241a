"""`salus job new` writes files that are valid as they are and state every key that counts."""

import tomllib
from pathlib import Path

import pytest
from tests.cli import salus

from salus.common.errors import JobError
from salus.common.idle import without_effect
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.optimizers import OPTIMIZERS
from salus.common.strategies import STRATEGIES
from salus.common.sums import SUMS, sums_of
from salus.common.tasks import TASKS, make_task
from salus.common.tasks.steps import check_outputs
from salus.privacy.dp.checks import steps_under_noise
from salus.privacy.dp.plan import plan_of
from salus.privacy.protection import PROTECTIONS
from salus.server.job_template import new_job

TRAINS = {"privacy": {"noise": "none"}}


@pytest.mark.parametrize("kind", TASKS.names())
def test_every_kind_of_task_gets_a_job_that_could_run(kind: str) -> None:
    job = parse_job(new_job(kind, "", TRAINS))
    assert job.task.kind == kind
    check_outputs(build_model(job.task, 0), make_task(job.task))


@pytest.mark.parametrize("kind", SUMS.names())
def test_every_kind_of_statistics_gets_a_job_with_its_number_of_steps(kind: str) -> None:
    sums_of(parse_job(new_job("", kind, {})))


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [("training", "optimizer", name) for name in OPTIMIZERS.names()]
    + [("aggregation", "strategy", name) for name in STRATEGIES.names()]
    + [("aggregation", "protection", name) for name in PROTECTIONS.names()]
    + [("privacy", "noise", name) for name in ("local", "distributed", "none")],
)
def test_every_choice_brings_its_keys(section: str, key: str, name: str) -> None:
    choices = {"training": TRAINS, "aggregation": TRAINS}.get(section, {}) | {section: {key: name}}
    text = new_job("classification", "", choices)
    job = parse_job(text)
    assert getattr(getattr(job, section), key) == name
    missing = [
        key
        for key in type(getattr(job, section)).model_fields
        if f"\n{key} = " not in text and f"\n# {key} =" not in text and f"{section}.{key}" not in without_effect(job)
    ]
    assert missing == []


def test_a_task_with_steps_that_read_no_data_gets_several_noised_steps_a_round() -> None:
    job = parse_job(new_job("gan", "", {}))
    plan = plan_of(job)
    assert plan is not None
    steps_under_noise(make_task(job.task), plan)
    assert job.noised_steps > 1


def test_a_line_gives_the_default_its_reason_and_no_reason_for_another_value() -> None:
    text = new_job("classification", "", TRAINS)
    assert 'optimizer = "adamw"  # It needs the least tuning' in text
    assert 'dataset = "my-data"  # change this' in text
    other = new_job("classification", "", TRAINS | {"training": {"optimizer": "sgd"}})
    assert 'optimizer = "sgd"\n' in other
    assert "# Momentum of the sites' optimizer.\nmomentum = 0.9" in other
    assert "epsilon" not in tomllib.loads(text)["privacy"]  # it would have no effect


def test_what_does_not_exist_or_does_not_fit_is_refused() -> None:
    with pytest.raises(JobError, match="task to be one of"):
        new_job("clasification", "", {})
    with pytest.raises(JobError, match="model to be one of"):
        new_job("classification", "", {"task": {"model": "cnnn"}})
    with pytest.raises(JobError, match="needs protection"):
        new_job("classification", "", {"privacy": {"noise": "distributed"}, "aggregation": {"protection": "none"}})


def test_the_command_writes_a_file_that_validates_and_overwrites_none(tmp_path: Path) -> None:
    command = ("job", "new", "--task", "tabular", "--noise", "none", "--output", tmp_path / "job.toml")
    assert salus(*command).returncode == 0
    assert salus("job", "validate", tmp_path / "job.toml").returncode == 0
    again = salus(*command)
    assert again.returncode == 10
    assert "not overwritten" in again.stderr
    assert salus("job", "new").returncode == 10


def test_a_list_of_possible_words_has_no_empty_one() -> None:
    text = new_job("segmentation", "", {})
    assert "One of: axial, coronal," in " ".join(text.replace("\n#", "").split())
    assert "One of: ," not in text


def test_subgroups_are_offered_in_training_and_not_in_statistics() -> None:
    text = new_job("classification", "", {}).replace("\n# ", " ")
    assert "Any of: age, sex, site, vendor." in text
    assert "subgroups = []" in text
    assert "[evaluation]" not in new_job("", "summary", {})
