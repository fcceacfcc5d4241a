"""Gradient inversion through the product's own path."""

from pathlib import Path

import pytest
from tests.builders import job_text
from tests.simulations.auditing.test_audit import asked, hospitals, private_job  # noqa: F401  (a fixture)

from salus.common.job import parse_job
from salus.simulations.auditing import inversion as module
from salus.simulations.auditing.inversion import Inversion
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN


def test_a_linear_classifier_s_update_shows_the_image_a_sum_hardly_and_noise_hides_it(
    hospitals: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ITERATIONS", 20)
    job = parse_job(job_text(rounds=3, min_sites=3, protection="masking").replace("[8, 8]", "[16, 16]"))
    plain, masked = Inversion().tried(asked(job, hospitals, tmp_path / "bare", (PLAIN, MASKED), sites=5))
    assert plain.value is not None
    assert masked.value is not None
    assert plain.value > 50  # the image itself
    assert plain.details["recognised"] == 1
    assert masked.value < plain.nothing + 3
    (noised,) = Inversion().tried(asked(private_job("local", 1.0), hospitals, tmp_path / "noised"))
    assert noised.against == NOISED
    assert noised.value is not None
    assert noised.value < noised.nothing
    assert "no better than" in noised.plainly
    many = Inversion().tried(asked(private_job("distributed", 1.0), hospitals, tmp_path / "sum"))
    assert many[0].text.startswith("from what the job releases")


def test_what_is_no_image_is_not_tried() -> None:
    columns = '[[task.columns]]\nname = "age"\ncentre = 50.0\nscale = 10.0\n'
    text = job_text(model="mlp").replace("shape = [8, 8]", "").replace('"classification"', '"tabular"')
    job = parse_job(text.replace("[training]", columns + "[training]"))
    assert "one image" in Inversion().objection(job)
    assert Inversion().objection(private_job("local", 1.0)) == ""
    large = parse_job(job_text().replace("[8, 8]", "[512, 512]"))
    assert "too large" in Inversion().objection(large)
