import numpy as np
import pytest

from salus.common.errors import DataError, JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
from salus.common.tasks import make_task

SETTINGS = TaskSettings(
    kind="tabular",
    model="logistic",
    dataset="d",
    classes=("a", "b"),
    columns=(Column(name="age", centre=50, scale=10), Column(name="sex", values=(0.0, 1.0))),
)


def row(*values: float) -> Example:
    return Example({"features": np.array(values, np.float32)})


def test_rows_become_scaled_features_and_missing_values_their_centre() -> None:
    task = make_task(SETTINGS)
    assert task.prepare(row(60, 1))["features"].tolist() == [1.0, 0.0, 1.0]
    assert task.prepare(row(np.nan, np.nan))["features"].tolist() == [0.0, 0.0, 0.0]
    assert task.spec["features"].shape == (3,)


def test_wrong_rows_and_settings_are_refused() -> None:
    with pytest.raises(DataError, match="2 columns"):
        make_task(SETTINGS).prepare(row(0, 0, 0))
    with pytest.raises(DataError, match="got images"):
        make_task(SETTINGS).prepare(Example({"image": np.zeros((1, 8, 8), np.float32)}))
    with pytest.raises(JobError, match="columns"):
        make_task(SETTINGS.model_copy(update={"columns": ()}))
