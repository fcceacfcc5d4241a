"""Property inference through the product's own path."""

from pathlib import Path

import pytest
from tests.builders import job_text
from tests.simulations.auditing.test_audit import asked, hospitals, private_job  # noqa: F401  (a fixture)

from salus.common.errors import DataError
from salus.common.job import parse_job
from salus.simulations.auditing import properties as module
from salus.simulations.auditing.properties import Property
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN


def test_an_update_shows_the_share_of_a_class_and_a_sum_less(
    hospitals: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RUNS", {PLAIN: 4, NOISED: 2})
    job = parse_job(job_text(rounds=3, min_sites=3, protection="masking").replace("[8, 8]", "[16, 16]"))
    attack = Property()
    with pytest.raises(DataError, match="without noise"):
        attack.tried(asked(private_job("local", 1.0), hospitals, tmp_path / "early", sites=5))
    plain, masked = attack.tried(asked(job, hospitals, tmp_path / "bare", (PLAIN, MASKED), sites=5))
    assert plain.value is not None
    assert masked.value is not None
    assert plain.value > 0.8
    assert masked.value < plain.value
    assert "patients of the class" in plain.text
    (noised,) = attack.tried(asked(private_job("local", 1.0), hospitals, tmp_path / "noised", sites=5))
    assert noised.value is not None
    assert noised.value > 0.2  # usually 0.8: noise for patients does not hide what holds for many patients of a site
    assert noised.plainly.startswith("Whether a hospital has many patients of the class")


def test_only_the_first_rounds_of_a_job_are_run(hospitals: Path, tmp_path: Path) -> None:  # noqa: F811
    job = parse_job(job_text(rounds=3, min_sites=3).replace("[8, 8]", "[16, 16]"))
    few = asked(job, hospitals, tmp_path / "few", sites=3)
    assert len(few.observed(job, "one", rounds=1).rounds) == 1
    assert len(few.observed(job, "all").rounds) == 3
