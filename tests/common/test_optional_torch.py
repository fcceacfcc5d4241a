"""Tensors that are kept serve training, whatever asked for them first."""

from contextlib import AbstractContextManager

import pytest
import torch

from salus.common.optional_torch import constant


class Owner:
    @constant
    def kept(self) -> torch.Tensor:
        """Two numbers."""
        return torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("first", [torch.inference_mode(), torch.device("meta")], ids=["inference", "meta"])
def test_a_kept_tensor_takes_part_in_training_afterwards(first: AbstractContextManager[object]) -> None:
    owner = Owner()
    with first:
        assert owner.kept is owner.kept
    weight = torch.ones(2, requires_grad=True)
    (owner.kept * weight).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 8.0]


def test_without_it_such_a_tensor_cannot_be_trained_with() -> None:
    with torch.inference_mode():
        made = torch.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match="[Ii]nference tensors"):
        (made * torch.ones(2, requires_grad=True)).sum().backward()
