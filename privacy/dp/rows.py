"""Whether, on this machine, what a row of a batch computes depends on its position or on the other rows.

A library may compute the rows of one batch with different instructions: a matrix product of 8 rows may add in another order than
one of 16, or in its last rows. If so, patients must be computed separately, because a crafted network can amplify a difference in
the last bit. Which instructions are chosen depends on sizes, not on values, so it is tried with random inputs and parameters.

One try may show nothing: two orders of additions often round to the same number, and a last layer has few of them. Therefore the
outputs of all layers and their gradients are compared, not only the norms, and several tries are made. Measured on a Xeon
(Cascade Lake), small CNNs and logistic regressions with 3 to 12 rows: where rows depend on each other, the norms differ in 40 to
100 % of the tries, the values of the layers in 80 to 100 %. What is not excluded: a difference that no try shows, one that only
certain values cause, and, with the general engine, whose layers are not seen, one that the norms rarely show.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.tasks.base import Task
from salus.privacy.dp.checks import drawn_anew, without_dropout
from salus.privacy.dp.clipped import Clipper, with_parameters
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.patients import Patients

FEW_PARAMETERS = 2**20  # a pass through a smaller network takes milliseconds
# A difference that shows in 80 % of the tries is missed in 3 of a million small networks, and in 8 of a thousand large ones.
TRIES, TRIES_LARGE = 8, 3
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
AT_ONCE = 2**22  # numbers of 8 bytes, so that a large volume's values do not need three times their memory
FACTOR = 0x1E3779B97F4A7C15  # odd, so that no changed bit is lost; it spreads the positions over 64 bits


def independent_rows(
    clipper: Clipper, model: nn.Module, task: Task, rows: int, places: int, device: torch.device
) -> bool:
    """Return whether a row's result is bitwise independent of its position and of the other rows, as far as was tried.

    Args:
        clipper: its engine is tried.
        model: its structure is tried, without dropout and with parameters of the tries' own: crafted ones that pass nothing on
            for random inputs would hide a difference, and so do zeros. It stays as it is.
        rows, places: size of the batch, see `patients.grid`.
    """
    seeds = range(tries_of(model))
    return all(_independent(clipper, model, task, rows, places, device, seed) for seed in seeds)


def tries_of(model: nn.Module) -> int:
    """Return how often a network is tried; a larger one has more layers in which a difference shows."""
    return TRIES if sum(p.numel() for p in model.parameters()) <= FEW_PARAMETERS else TRIES_LARGE


def _independent(
    clipper: Clipper, model: nn.Module, task: Task, rows: int, places: int, device: torch.device, seed: int
) -> bool:
    network = drawn_anew(without_dropout(model), seed)
    tried = clipper.of_copy(network)
    batch = example_batch(task.spec, rows * places, seed).to(device)
    patients = Patients(torch.full((rows,), places), places).to(device)
    order = torch.arange(len(batch), device=device)
    # The other engine shows no layer's values.
    layers = with_parameters(network) if isinstance(tried, FastClipper) else []

    def values(given: Batch) -> torch.Tensor:
        with _digests(layers, rows) as seen:
            norms = tried.clipped_sum(given, patients, 1.0).norms_l2
        return torch.stack([norms.view(torch.int64), *seen])

    alone = values(batch)
    for shift in {1, rows // 2} - {0, rows}:
        if not torch.equal(values(batch.rows(order.roll(shift * places))), alone.roll(shift, 1)):
            return False
    odd = torch.arange(rows, device=device).repeat_interleave(places) % 2 == 1
    strange = values(Batch({name: _strange(field, odd, places) for name, field in batch.fields.items()}))
    return torch.equal(strange[:, ::2], alone[:, ::2])


@contextlib.contextmanager
def _digests(layers: Sequence[nn.Module], rows: int) -> Iterator[list[torch.Tensor]]:
    """Collect a number for each row, ``[rows]`` int64, of each output of these layers and of its gradient."""
    seen: list[torch.Tensor] = []

    def watch(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append(_digest(output.detach(), rows))
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.append(_digest(gradient, rows)))  # type: ignore[no-untyped-call]

    handles = [layer.register_forward_hook(watch) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _digest(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Return a number for each row that changes with any bit, ``[rows]`` int64; whole numbers, so that no order changes it."""
    bits = values.contiguous().view(INTEGERS[values.element_size()]).reshape(rows, -1)
    total = torch.zeros(rows, dtype=torch.int64, device=bits.device)
    step = max(1, AT_ONCE // rows)
    for first in range(0, bits.shape[1], step):
        part = bits[:, first : first + step].long()
        places = torch.arange(first, first + part.shape[1], device=bits.device)
        total += (part * ((2 * places + 1) * FACTOR)).sum(1)
    return total


def _strange(field: torch.Tensor, odd: torch.Tensor, places: int) -> torch.Tensor:
    """Return a field with other values in the odd rows, in the first of them NaN."""
    field = field.clone()
    field[odd] = field[odd] * -3 if field.is_floating_point() else field[odd].flip(0)
    if field.is_floating_point():
        field[odd.nonzero()[:places, 0]] = float("nan")
    return field
