"""A loss taken apart at its calls of the network: the network runs once on a whole batch, the loss on one item at a time.

Whatever a task's loss does with its items, it sees a single one together with that item's outputs, so it cannot couple
patients. The gradient with respect to each call's outputs then goes through the network in one backward pass. If the input of a
later call follows from an earlier call's output, that pass goes through both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from salus.common.batch import Batch
from salus.privacy.dp.patients import Patients

Loss = Callable[[nn.Module, Batch], torch.Tensor]


class _Proxy:
    """Stands for a module, or a part or method of one; its calls are answered by a function."""

    def __init__(self, target: Any, answer: Callable[..., Any]) -> None:
        self._target, self._answer = target, answer

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._answer(self._target, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return self._part(getattr(self._target, name))

    def __getitem__(self, key: Any) -> Any:
        return self._part(self._target[key])

    def __iter__(self) -> Iterator[Any]:
        return (self._part(part) for part in self._target)

    def __len__(self) -> int:
        return len(self._target)

    def _part(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            raise RuntimeError("the loss reads a parameter outside of a layer")
        return _Proxy(value, self._answer) if callable(value) or isinstance(value, nn.Module) else value


@dataclass(frozen=True)
class Calls:
    """The outputs of the network's calls for one batch.

    Args:
        structures: of each call's result.
        tensors: all tensors of all results, in order, first dimension the items or a multiple of them.
        losses: of the items; None if the loss ended with an error, so that further calls may be missing.
    """

    model: nn.Module
    structures: tuple[Any, ...]
    tensors: tuple[torch.Tensor, ...]
    items: int
    losses: torch.Tensor | None = None

    def of_item(self, item: int) -> list[torch.Tensor]:
        """Return one item's part of every tensor, detached; half precision becomes single."""
        return [_single(tensor.detach()[self.place(tensor, item)]) for tensor in self.tensors]

    def place(self, tensor: torch.Tensor, item: int) -> slice:
        """Return where one item's entries lie."""
        size = len(tensor) // self.items
        return slice(item * size, (item + 1) * size)

    def loss(self, loss: Loss, batch: Batch, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Return the losses of a batch with these tensors in place of the network's outputs.

        Raises:
            RuntimeError: the loss calls the network more or less often than it was recorded.
        """
        given = iter(tensors)
        results = [pytree.tree_unflatten([next(given) for _ in range(s.num_leaves)], s) for s in self.structures]
        waiting = iter(results)
        used = 0

        def answer(target: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal used
            used += 1
            if used > len(results):
                raise OtherCalls
            return next(waiting)

        found = loss(cast(nn.Module, _Proxy(self.model, answer)), batch)
        if used != len(results):
            raise OtherCalls
        return found


class OtherCalls(RuntimeError):
    """A loss calls the network more or less often for one item than for the whole batch."""


def recorded(loss: Loss, model: nn.Module, batch: Batch) -> Calls:
    """Return the outputs of the network's calls, with their graph.

    Raises:
        RuntimeError: the loss uses the network in a way that cannot be taken apart.
    """
    results: list[Any] = []

    def answer(target: Any, *arguments: Any, **named: Any) -> Any:
        results.append(target(*arguments, **named))
        return results[-1]

    losses = None
    try:
        losses = loss(cast(nn.Module, _Proxy(model, answer)), batch).detach()
    except Exception:
        if not results:
            raise
        # The loss may fail for one item only, see `output_gradients`.
    flat, structures = zip(*(pytree.tree_flatten(result) for result in results), strict=True) if results else ((), ())
    tensors = tuple(tensor for leaves in flat for tensor in leaves)
    items = len(batch)
    if not tensors or any(not isinstance(t, torch.Tensor) or t.dim() == 0 or len(t) % items for t in tensors):
        raise RuntimeError("expected calls of the network whose outputs belong to single items")
    return Calls(model, tuple(structures), tensors, items, losses)


def output_gradients(loss: Loss, calls: Calls, batch: Batch, patients: Patients) -> list[torch.Tensor]:
    """Return, for each recorded tensor, the gradient of the sum over patients of the mean loss of their items.

    The loss is evaluated for one item at a time, so that it cannot couple patients. An item for which it fails has a gradient of
    NaN, and its patient contributes nothing. Free places have a gradient of zero.

    Raises:
        RuntimeError: the loss failed for the whole batch before its last call.
    """
    gradients = [torch.zeros_like(_single(tensor.detach())) for tensor in calls.tensors]
    for place, patient in patients.numbers():
        try:
            leaves = [
                leaf.clone().requires_grad_() if leaf.is_floating_point() else leaf for leaf in calls.of_item(place)
            ]
            with torch.enable_grad():
                losses = calls.loss(loss, batch.rows(slice(place, place + 1)), leaves)
                if losses.shape != (1,):
                    raise ValueError("expected one loss for one item")
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                slopes = iter(torch.autograd.grad(losses.sum(), wanted, allow_unused=True))
            found = [next(slopes) if leaf.requires_grad else None for leaf in leaves]
        except Exception as problem:
            if isinstance(problem, OtherCalls) and calls.losses is None:
                raise
            # Any error must affect only this patient: a failure of the whole step would reveal that the patient is there.
            for tensor, gradient in zip(calls.tensors, gradients, strict=True):
                if gradient.is_floating_point():
                    gradient[calls.place(tensor, place)] = float("nan")
            continue
        for tensor, gradient, slope in zip(calls.tensors, gradients, found, strict=True):
            if slope is not None:
                gradient[calls.place(tensor, place)] = slope / patients.of_row[patient]
    return gradients


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
