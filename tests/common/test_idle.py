"""A setting without effect in a job file is refused, also with its default value; a signed job may name it."""

import pytest
from tests.builders import job_text, tiny_job

from salus.common.errors import JobError
from salus.common.idle import without_effect
from salus.common.job import job_from_canonical, parse_job

LOCAL = 'noise = "local"'
STATISTICS = (
    job_text(privacy=LOCAL)
    .replace('kind = "classification"\nmodel = "logistic"\n', "")
    .replace("rounds = 2", "rounds = 1")
    + '\n[statistics]\nkind = "summary"\n'
)


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (job_text(privacy='noise = "none"\nepsilon = 3.0'), "privacy.epsilon", 'privacy.noise is "none"'),
        (job_text(privacy=LOCAL, training="learning_rate = 0.001"), "training.learning_rate", "one noised step"),
        (job_text(privacy=LOCAL, training='optimizer = "adamw"'), "training.optimizer", "server_learning_rate"),
        (job_text(privacy='noise = "distributed"', protection="masking", training="weight_decay = 0.0"),
         "training.weight_decay", "one noised step"),
        (job_text(protection='none"\nserver_momentum = 0.9 #'), "aggregation.server_momentum", "strategy is 'fedavg'"),
        (STATISTICS.replace(LOCAL, LOCAL + "\nsampling_rate = 0.5"), "privacy.sampling_rate", "every patient takes part"),
        (STATISTICS.replace(LOCAL, LOCAL + "\nevaluation_share = 0.1"), "privacy.evaluation_share", "no model"),
        (STATISTICS.replace("[training]", "[training]\nlearning_rate = 0.1"), "training.learning_rate", "trains nothing"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused_with_the_reason(text: str, key: str, reason: str) -> None:
    with pytest.raises(JobError, match=f"Expected no {key} in this job: .*{reason}"):
        parse_job(text)


def test_what_has_an_effect_is_accepted() -> None:
    parse_job(STATISTICS)
    parse_job(job_text(privacy=LOCAL + "\nsteps_per_round = 4", training="weight_decay = 0.01"))
    parse_job(job_text(protection='none"\nstrategy = "fedavgm"\nserver_momentum = 0.9 #'))


def test_a_signed_job_names_every_key_and_is_accepted() -> None:
    job = tiny_job(privacy=LOCAL, protection="masking")
    assert "training.learning_rate" in without_effect(job)
    assert job_from_canonical(job.canonical_bytes()) == job
