"""What a prediction says is what a label file would say."""

import pytest
import torch

from salus.common.job import parse_job
from salus.common.tasks import make_task
from salus.common.tasks.base import Said, Saying

JOB = """
[job]
name = "j"
rounds = 1
[task]
kind = "{kind}"
model = "logistic"
dataset = "d"
classes = [{classes}]
shape = [4, 4]
{more}
[privacy]
noise = "none"
"""


def said(kind: str, outputs: torch.Tensor, classes: str = '"a", "b", "c"', more: str = "") -> Said:
    task = make_task(parse_job(JOB.format(kind=kind, classes=classes, more=more)).task)
    assert isinstance(task, Saying)
    return task.said(outputs)


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_one_class_is_said_with_probabilities_that_sum_to_one(kind: str) -> None:
    found = said(kind, torch.tensor([0.0, 2.0, 1.0]))
    assert found.label == "b"
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.probabilities["b"] > found.probabilities["c"] > found.probabilities["a"]


def test_several_findings_are_said_as_a_label_file_has_them() -> None:
    found = said("multilabel", torch.tensor([1.0, -1.0, 0.5]))
    assert found.label == "a|c"
    assert found.probabilities["b"] == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item())
    assert said("multilabel", torch.tensor([-1.0, -1.0, -1.0])).label == "No Finding"
    task = make_task(parse_job(JOB.format(kind="multilabel", classes='"a", "b", "c"', more="")).task)
    assert task.target("a|c").tolist() == [1, 0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("share", "value"), [(0.25, 30.0), (-0.3, 20.0), (1.7, 60.0)])
def test_a_number_is_said_in_its_own_unit_and_within_its_limits(share: float, value: float) -> None:
    found = said("regression", torch.tensor(share), '"age"', "low = 20.0\nhigh = 60.0")
    assert found.values == {"age": value}
    assert float(found.label) == value
    assert found.probabilities == {}
