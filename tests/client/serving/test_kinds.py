"""What a node sends for each kind of model, known before anything is received."""

from pathlib import Path

import pytest

from salus.client.serving.working import kinds_for
from salus.common.errors import JobError
from salus.common.job import load_job

JOBS = Path(__file__).resolve().parents[3] / "simulations" / "jobs"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("phantom-structures", {"seg", "sr", "sc"}),
        ("phantom-cells", {"seg", "sc"}),
        ("phantom-retinanet", {"sc"}),
        ("pneumonia", {"sr", "sc"}),
        ("recognition-findings", {"sr", "sc"}),
        ("pneumonia-radiomics-boosting", {"sr", "sc"}),
    ],
)
def test_kinds(name: str, kinds: set[str]) -> None:
    assert kinds_for(load_job(JOBS / f"{name}.toml")) == kinds


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("phantom-multi-instance", "more than one study"),
        ("phantom-sequence-gru", "more than one study"),
        ("heart-disease", "rows of a table"),
        ("heart-boosting", "rows of a table"),
        ("fusion-phantom", "rows of a table"),
        ("pneumonia-vae", "generates images"),
        ("phantom-statistics", "no model that says anything"),
    ],
)
def test_refused(name: str, text: str) -> None:
    with pytest.raises(JobError, match=text):
        kinds_for(load_job(JOBS / f"{name}.toml"))
