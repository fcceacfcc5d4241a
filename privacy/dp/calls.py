"""A loss taken apart at its calls of the network: the network runs once on a whole batch, the loss on each item by itself.

Whatever a task's loss does with its items, it sees a single one together with that item's outputs, and for a single one it
must make the same calls with the same inputs as for the whole batch. So it cannot couple patients. The gradient with respect
to each call's outputs then goes through the network in one backward pass. If the input of a later call follows from an earlier
call's output, that pass goes through both.
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
class Call:
    """One call of the network or a part of it.

    Args:
        target: what was called.
        given: its arguments, flattened.
        structures: of the arguments and of the result.
    """

    target: Any
    given: list[Any]
    structures: tuple[Any, Any]

    @classmethod
    def of(cls, target: Any, arguments: Any, result: Any) -> "Call":
        """Return a call as it was made."""
        given, structure = pytree.tree_flatten(arguments)
        return cls(target, [_detached(value) for value in given], (structure, pytree.tree_flatten(result)[1]))

    def same_for(self, item: int, items: int, target: Any, arguments: Any) -> bool:
        """Return whether one item alone makes this call, with its own part of the batch's inputs or the same constants."""
        given, structure = pytree.tree_flatten(arguments)
        return (
            bool(target == self.target)
            and structure == self.structures[0]
            and all(_part_of(mine, whole, item, items) for mine, whole in zip(given, self.given, strict=True))
        )

    def tensors_of(self, target: Any, arguments: Any) -> list[torch.Tensor]:
        """Return the tensors of a call that otherwise is this one; raises OtherCalls if it is another."""
        given, structure = pytree.tree_flatten(arguments)
        if target != self.target or structure != self.structures[0]:
            raise OtherCalls
        for mine, whole in zip(given, self.given, strict=True):
            if isinstance(mine, torch.Tensor) != isinstance(whole, torch.Tensor):
                raise OtherCalls
            if not isinstance(mine, torch.Tensor) and not _part_of(mine, whole, 0, 1):
                raise OtherCalls
        return [value for value in given if isinstance(value, torch.Tensor)]


@dataclass(frozen=True)
class Calls:
    """The network's calls for one batch, and what they returned.

    Args:
        made: in order.
        tensors: all tensors of all results, in order, first dimension the items or a multiple of them.
        losses: of the items; None if the loss ended with an error, so that further calls may be missing.
    """

    model: nn.Module
    made: tuple[Call, ...]
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

    def loss(
        self,
        loss: Loss,
        batch: Batch,
        tensors: list[torch.Tensor],
        item: int | None = None,
        given: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the losses of a batch with these tensors in place of the network's outputs.

        Args:
            item: the only one in the batch, whose calls must be the recorded ones; None for other inputs than the recorded ones.
            given: takes the tensors with which the network is called, for a later comparison.

        Raises:
            OtherCalls: the loss calls the network otherwise than it was recorded.
        """
        outputs, waiting = iter(tensors), iter(self.made)

        def answer(target: Any, *arguments: Any, **named: Any) -> Any:
            call = next(waiting, None)
            if call is None or (item is not None and not call.same_for(item, self.items, target, (arguments, named))):
                raise OtherCalls
            if given is not None:
                given.extend(call.tensors_of(target, (arguments, named)))
            structure = call.structures[1]
            return pytree.tree_unflatten([next(outputs) for _ in range(structure.num_leaves)], structure)

        found = loss(cast(nn.Module, _Proxy(self.model, answer)), batch)
        if next(waiting, None) is not None:
            raise OtherCalls
        return found


class OtherCalls(RuntimeError):
    """A loss calls the network otherwise for one item than for the whole batch."""


def recorded(loss: Loss, model: nn.Module, batch: Batch) -> Calls:
    """Return the outputs of the network's calls, with their graph.

    Raises:
        RuntimeError: the loss uses the network in a way that cannot be taken apart.
    """
    made: list[Call] = []
    results: list[Any] = []

    def answer(target: Any, *arguments: Any, **named: Any) -> Any:
        results.append(target(*arguments, **named))
        made.append(Call.of(target, (arguments, named), results[-1]))
        return results[-1]

    losses = None
    try:
        losses = loss(cast(nn.Module, _Proxy(model, answer)), batch).detach()
    except Exception:
        if not results:
            raise
        # The loss may fail for one item only, see `output_gradients`.
    tensors = tuple(tensor for result in results for tensor in pytree.tree_flatten(result)[0])
    items = len(batch)
    if not tensors or any(not isinstance(t, torch.Tensor) or t.dim() == 0 or len(t) % items for t in tensors):
        raise RuntimeError("expected calls of the network whose outputs belong to single items")
    return Calls(model, tuple(made), tensors, items, losses)


def output_gradients(loss: Loss, calls: Calls, batch: Batch, patients: Patients) -> list[torch.Tensor]:
    """Return, for each recorded tensor, the gradient of the sum over patients of the mean loss of their items.

    The loss is evaluated for each item by itself, so that it cannot couple patients: for all at once if it can be vectorised,
    or else one after the other. An item for which it fails then has a gradient of NaN, and its patient contributes nothing.
    Free places have a gradient of zero. Both routes gave the same weights to the last bit in the jobs of `test_same_weights`, and
    agree to rounding elsewhere; which is taken follows from the loss, unless it fails for some items only.

    Raises:
        OtherCalls: for one item alone, the loss calls the network otherwise or with other inputs than for the whole batch, or it
            failed for the whole batch before its last call. Then each patient needs a pass without the others.
    """
    try:
        return _at_once(loss, calls, batch, patients)
    except Exception:  # noqa: S110
        pass  # not every loss can be vectorised, and what fails for one item must not fail for the others
    gradients = [torch.zeros_like(_single(tensor.detach())) for tensor in calls.tensors]
    for place, patient in patients.numbers():
        try:
            leaves = [
                leaf.clone().requires_grad_() if leaf.is_floating_point() else leaf for leaf in calls.of_item(place)
            ]
            with torch.enable_grad():
                losses = calls.loss(loss, batch.rows(slice(place, place + 1)), leaves, place)
                if losses.shape != (1,):
                    raise ValueError("expected one loss for one item")
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                slopes = iter(torch.autograd.grad(losses.sum(), wanted, allow_unused=True))
            found = [next(slopes) if leaf.requires_grad else None for leaf in leaves]
        except Exception as problem:
            if isinstance(problem, OtherCalls):
                raise  # other items of the batch had a part in the network's inputs, and must have none in what this one adds
            # Any error must affect only this patient: a failure of the whole step would reveal that the patient is there.
            for tensor, gradient in zip(calls.tensors, gradients, strict=True):
                if gradient.is_floating_point():
                    gradient[calls.place(tensor, place)] = float("nan")
            continue
        for tensor, gradient, slope in zip(calls.tensors, gradients, found, strict=True):
            if slope is not None:
                gradient[calls.place(tensor, place)] = slope / patients.of_row[patient]
    return gradients


def _at_once(loss: Loss, calls: Calls, batch: Batch, patients: Patients) -> list[torch.Tensor]:
    """Do what `output_gradients` does for all items at once, by `torch.func.vmap`, in which no item can see another.

    Raises:
        Exception: the loss cannot be vectorised, or an item makes other calls than the whole batch; the caller then takes one
            item at a time.
    """
    items = calls.items
    parts = [_single(t.detach()).reshape(items, len(t) // items, *t.shape[1:]) for t in calls.tensors]
    which = [number for number, part in enumerate(parts) if part.is_floating_point()]

    def one(
        wanted: list[torch.Tensor], outputs: list[torch.Tensor], fields: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        leaves, given = list(outputs), list[torch.Tensor]()
        for number, leaf in zip(which, wanted, strict=True):
            leaves[number] = leaf
        losses = calls.loss(loss, Batch({name: field[None] for name, field in fields.items()}), leaves, given=given)
        if losses.shape != (1,):
            raise ValueError("expected one loss for one item")
        return losses.sum(), given

    each = torch.func.vmap(torch.func.grad(one, has_aux=True))
    slopes, given = each([parts[number] for number in which], parts, dict(batch.fields))
    whole = [value for call in calls.made for value in call.given if isinstance(value, torch.Tensor)]
    if not all(_parts_of(mine, theirs) for mine, theirs in zip(given, whole, strict=True)):
        raise OtherCalls
    counts = torch.zeros(items)
    for place, patient in patients.numbers():
        counts[place] = patients.of_row[patient]
    gradients = [torch.zeros_like(_single(tensor.detach())) for tensor in calls.tensors]
    for number, slope in zip(which, slopes, strict=True):
        images = counts.to(slope).reshape(-1, *[1] * (slope.dim() - 1))
        # Free places add nothing, not even NaN.
        found = torch.where(images > 0, slope / images, torch.zeros_like(slope))
        gradients[number] = found.reshape(gradients[number].shape)
    return gradients


def _parts_of(mine: torch.Tensor, whole: torch.Tensor) -> bool:
    """Return whether the items' own inputs, ``[items, ...]``, are their parts of the batch's, or the same constants."""
    items = len(mine)
    same_size = whole.dim() > 0 and mine.dim() == whole.dim() + 1 and mine.numel() == whole.numel()
    if same_size and _equal(mine.reshape(whole.shape), whole):
        return True
    return _equal(mine, whole.expand(items, *whole.shape))


def _part_of(mine: Any, whole: Any, item: int, items: int) -> bool:
    if not isinstance(whole, torch.Tensor) or not isinstance(mine, torch.Tensor):
        return type(mine) is type(whole) and bool(mine == whole)
    if whole.dim() and len(whole) % items == 0:
        size = len(whole) // items
        return _equal(mine, whole[item * size : (item + 1) * size]) or _equal(mine, whole)
    return _equal(mine, whole)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors are the same to the last bit; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
