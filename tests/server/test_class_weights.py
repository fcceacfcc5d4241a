"""Weights from protected counts."""

import tomllib
from typing import Any

import pytest
from tests.builders import tiny_job

from salus.common.errors import JobError
from salus.common.job import parse_job
from salus.server.class_weights import weights_section


def result(noise_sd: float = 0.0, **labels: float) -> dict[str, Any]:
    return {"noise_sd": noise_sd, "blocks": {"labels": labels}}


def test_every_class_counts_alike_and_the_mean_item_has_weight_one() -> None:
    counts = {"no": 900.0, "yes": 100.0, "other label": 50.0}
    weights = tomllib.loads(weights_section(["no", "yes"], result(**counts)))["task"]["class_weights"]
    assert weights[0] * 900 == pytest.approx(weights[1] * 100, rel=1e-3)
    assert (weights[0] * 900 + weights[1] * 100) / 1000 == pytest.approx(1.0, rel=1e-3)


def test_the_section_is_a_part_of_a_training_job() -> None:
    section = weights_section(["no", "yes"], result(no=30.0, yes=10.0)).replace("[task]\n", "")
    text = tiny_text().replace('dataset = "toy"', 'dataset = "toy"\n' + section)
    assert parse_job(text).task.class_weights == (0.6667, 2.0)  # type: ignore[attr-defined]


def tiny_text() -> str:
    from tests.builders import job_text

    assert tiny_job().task.classes == ("no", "yes")
    return job_text()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (result(no=30.0), "'yes' has too few"),
        (result(20.0, no=900.0, yes=50.0), "'yes' has too few"),
        ({"noise_sd": 0.0}, "counts of labels"),
    ],
)
def test_suppressed_and_noisy_counts_are_refused(found: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        weights_section(["no", "yes"], found)


@pytest.mark.parametrize("noise_sd", [0.0, 4.0])
def test_counts_and_shares_for_other_losses_are_comments(noise_sd: float) -> None:
    """Exact and noised counts alike; a comment becomes a key without its mark."""
    text = weights_section(["no", "yes"], {"blocks": {"labels": {"no": 75.0, "yes": 25.5}}, "noise_sd": noise_sd})
    assert set(tomllib.loads(text)["task"]) == {"class_weights"}
    task = tomllib.loads(text.replace("# ", ""))["task"]
    assert task["class_counts"] == [75.0, 25.5]
    assert task["class_shares"] == pytest.approx([75 / 100.5, 25.5 / 100.5], abs=1e-6)
