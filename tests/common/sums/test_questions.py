"""One question about each quantity: what makes two jobs of exact statistics ask differently."""

import pytest
from tests.server.test_measuring import JOB

from salus.common.errors import JobError
from salus.common.job import Job, parse_job
from salus.common.sums.questions import questions_of


def asked(kind: str = "summary", columns: str = "", bins: int = 16) -> Job:
    text = JOB.replace('classes = ["no", "yes"]', f'classes = ["no", "yes"]\n{columns}').replace(
        "bins = 16", f"bins = {bins}"
    )
    # The text is a template, so braces of columns stand double.
    return parse_job(
        text.format(rounds=1, kind=kind, protection="masking", privacy='noise = "none"', least=5, holder="")
    )


def test_a_column_is_asked_about_once_in_a_job() -> None:
    """Finding E: listed 400 times with shifted scales, a column showed 23 intervals of one patient each."""
    shifted = ", ".join(f'{{{{name = "age", centre = {50 + shift / 10}, scale = 10.0}}}}' for shift in range(3))
    with pytest.raises(JobError, match="expected every column only once"):
        asked(columns=f"columns = [{shifted}]")


def test_other_bins_scales_and_limits_are_other_questions_and_equal_ones_are_equal() -> None:
    age = 'columns = [{{name = "age", centre = %s, scale = 10.0}}]'
    first = questions_of(asked(columns=age % 50.0), 5)
    assert set(first) == {"summary: labels", "summary: column age"}
    assert first == questions_of(asked(columns=age % 50.0), 5)
    for other in (
        questions_of(asked(columns=age % 50.5), 5),
        questions_of(asked(columns=age % 50.0, bins=17), 5),
        questions_of(asked(columns=age % 50.0), 6),
    ):
        assert other["summary: column age"] != first["summary: column age"]
    assert set(questions_of(asked(), 5)) == {"summary: labels", "summary: intensities"}
    assert set(questions_of(asked("quantiles"), 5)) == {"quantiles"}
    assert questions_of(asked("quantiles"), 5) != questions_of(asked("quantiles", bins=17), 5)
