"""Prediction for a task that takes all images of a patient together is refused by name, before anything is read."""

import pytest

from salus.client.predicting.run import check_wanted
from salus.common.errors import JobError
from salus.common.job import parse_job

JOB = """
[job]
name = "s"
rounds = 1
[task]
kind = "sequence"
model = "gru"
dataset = "d"
classes = ["a", "b"]
{more}
"""


def test_patients_of_several_images_are_refused_and_clips_are_not() -> None:
    with pytest.raises(JobError, match="all images of a patient"):
        check_wanted(parse_job(JOB.format(more="shape = [4, 4]")), frozenset())
    check_wanted(parse_job(JOB.format(more='shape = [3, 4, 4]\nitem = "image"')), frozenset())
