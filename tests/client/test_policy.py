from pathlib import Path

import pytest
from tests.builders import tiny_job

from salus.client.config import POLICY_TEMPLATE
from salus.client.policy import Policy, load_policy
from salus.common.errors import ConfigError, Refused


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
        ({"min_sites": 3}, "at least 3 sites"),
        ({"cohort_epoch": 1}, "cohort_epoch 1, not 0"),
    ],
)
def test_every_rule_refuses(rules: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Policy(allow_unprotected=True, allow_without_noise=True, **rules).check(tiny_job())  # type: ignore[arg-type]


def test_no_file_means_defaults_and_a_bad_file_is_an_error(tmp_path: Path) -> None:
    assert load_policy(tmp_path / "policy.toml") == Policy()
    (tmp_path / "policy.toml").write_text(POLICY_TEMPLATE)
    assert load_policy(tmp_path / "policy.toml") == Policy()
    for bad in ("allow_unprotectd = true", "allow_unprotected = 'yes'", "= ="):
        (tmp_path / "policy.toml").write_text(bad)
        with pytest.raises(ConfigError):
            load_policy(tmp_path / "policy.toml")
