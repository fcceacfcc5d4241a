from pathlib import Path

import pytest
from tests.builders import tiny_job, toy_site

from salus.client.config import POLICY_TEMPLATE
from salus.client.policy import Policy, load_policy
from salus.common.errors import ConfigError, Refused
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.packets import Request


def test_unprotected_jobs_are_refused_unless_allowed_by_name() -> None:
    with pytest.raises(Refused, match="allow_unprotected"):
        Policy().check(tiny_job())
    Policy(allow_unprotected=True, allow_without_noise=True).check(tiny_job())


def test_jobs_without_noise_are_refused_unless_allowed_by_name() -> None:
    with pytest.raises(Refused, match="allow_without_noise"):
        Policy(allow_unprotected=True).check(tiny_job())
    private = tiny_job(protection="masking", privacy='noise = "distributed"')
    Policy().check(private)
    with pytest.raises(Refused, match="distributed"):
        Policy(allow_distributed_noise=False).check(private)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tasks": ("segmentation",)}, "segmentation"),
        ({"datasets": ("other",)}, "data set 'toy'"),
        ({"max_rounds": 1}, "1 rounds"),
        ({"min_sites": 3}, "min_sites of at least 3"),
        ({"cohort_epochs": {"toy": 1}}, "cohort epoch 1 for the data set 'toy'; the job names 0"),
    ],
)
def test_every_rule_refuses(rules: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Policy(allow_unprotected=True, allow_without_noise=True, **rules).check(tiny_job())  # type: ignore[arg-type]


def test_the_cohort_epoch_is_of_one_data_set_and_binds_no_job_with_noise() -> None:
    allowed = Policy(allow_unprotected=True, allow_without_noise=True, cohort_epochs={"other": 3})
    allowed.check(tiny_job())
    raised = Policy(cohort_epochs={"toy": 3})
    raised.check(tiny_job(protection="masking", privacy='noise = "distributed"'))
    raised.check(tiny_job(protection="masking", privacy='noise = "local"'))
    for wrong in ({"toy": -1}, {"toy": "1"}):
        with pytest.raises(ValueError, match="cohort_epochs"):
            Policy(cohort_epochs=wrong)  # type: ignore[arg-type]


def test_a_missing_file_refuses_every_job_and_never_means_wider_rules(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy.toml is missing.*Restore it"):
        load_policy(tmp_path / "policy.toml")


def test_the_template_has_the_defaults_and_a_bad_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY_TEMPLATE)
    assert load_policy(tmp_path / "policy.toml") == Policy()
    for bad in ("allow_unprotectd = true", "allow_unprotected = 'yes'", "= ="):
        (tmp_path / "policy.toml").write_text(bad)
        with pytest.raises(ConfigError):
            load_policy(tmp_path / "policy.toml")


def test_a_policy_that_vanishes_while_the_daemon_runs_refuses_the_next_request(tmp_path: Path) -> None:
    coordinator = Identity.generate()
    site = toy_site(tmp_path, 1, coordinator.public_key)
    site._policy = lambda: load_policy(tmp_path / "policy.toml")
    job = tiny_job()
    request = Request(
        kind="train", job_id="tiny-0001", job=seal_job(job, coordinator), round=1, attempt=0, sites=(1, 2, 3)
    )
    reply, blob = site.handle(request, b"")
    assert reply.kind == "refused"
    assert "policy.toml is missing" in reply.text
    assert blob == b""
