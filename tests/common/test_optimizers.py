"""Every optimizer takes the settings of the job, and has a fresh state."""

import pytest
import torch

from salus.common.errors import JobError
from salus.common.job import Training
from salus.common.optimizers import OPTIMIZERS, make_optimizer

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_has_the_jobs_settings_and_lowers_a_loss(name: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = make_optimizer([weight], Training(optimizer=name, learning_rate=0.05, weight_decay=0.01))
    assert type(optimizer) is KINDS[name]
    assert optimizer.defaults["lr"] == 0.05
    assert optimizer.defaults["weight_decay"] == 0.01
    assert not optimizer.state
    for _ in range(100):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert abs(weight.item()) < 1.0


def test_momentum_belongs_to_sgd() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    assert make_optimizer([weight], Training(optimizer="sgd", momentum=0.5)).defaults["momentum"] == 0.5
    assert make_optimizer([weight], Training(optimizer="sgd")).defaults["momentum"] == 0.9


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(JobError, match="adam, adamw, sgd"):
        make_optimizer([], Training().model_copy(update={"optimizer": "lion"}))
