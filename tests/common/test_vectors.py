import numpy as np
import pytest
import torch

from salus.common.errors import JobError, WireError
from salus.common.vectors import layout_of, read_parameters, write_parameters


def test_parameters_survive_the_way_through_a_vector() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GroupNorm(1, 2))
    layout = layout_of(model)
    before = read_parameters(model, layout)
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GroupNorm(1, 2))
    write_parameters(other, layout, layout.decode(layout.encode(before)))
    assert np.array_equal(read_parameters(other, layout), before)


def test_models_with_shared_statistics_are_refused() -> None:
    with pytest.raises(JobError, match="GroupNorm"):
        layout_of(torch.nn.BatchNorm2d(3))


def test_a_diverged_model_is_refused() -> None:
    layout = layout_of(torch.nn.Linear(2, 1))
    with pytest.raises(WireError, match="finite"):
        layout.decode(layout.encode(np.array([1, np.nan, 0], np.float32)))
    with pytest.raises(WireError, match="vector of 3"):
        layout.unflatten(np.zeros(4, np.float32))
