"""Items as named tensors: what a task trains on, of any kind.

Every field is rectangular. What is ragged (boxes, time steps, absent modalities) is padded to a public size, and a field
``<name>.there`` says which entries are real. So all shapes follow from the job alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from salus.common.optional_torch import torch

THERE = ".there"
EXAMPLE_SEED = 1
DTYPES = {"float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True)
class Field:
    """One named tensor of one item.

    Args:
        shape: of one item, without the dimension of the batch.
        low, high: for integers, the smallest value and one more than the largest; not used for floating-point numbers.
        noise: whether it is drawn anew in every step, standard normal, rather than prepared from data.
        spatial: whether the field is ``[channels, *grid]`` on the grid that all such fields of an item share.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"
    low: int = 0
    high: int = 2
    noise: bool = False
    spatial: bool = False


Spec = Mapping[str, Field]


@dataclass(frozen=True)
class Batch:
    """Named tensors with a common first dimension, the items.

    Args:
        fields: tensors ``[items, *shape]``.
    """

    fields: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        if len({len(tensor) for tensor in self.fields.values()}) != 1:
            raise ValueError("expected fields with the same number of items")

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(iter(self.fields.values())).device

    def rows(self, places: torch.Tensor | slice) -> "Batch":
        """Return these items."""
        return Batch({name: tensor[places] for name, tensor in self.fields.items()})

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device."""
        return Batch({name: t.to(device, non_blocking=non_blocking) for name, t in self.fields.items()})

    def double(self) -> "Batch":
        """Return the batch with floating-point fields in double precision."""
        return Batch({name: t.double() if t.is_floating_point() else t for name, t in self.fields.items()})

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory, from which a GPU copies without waiting."""
        return Batch({name: tensor.pin_memory() for name, tensor in self.fields.items()})


def stacked(items: Sequence[Mapping[str, torch.Tensor]]) -> Batch:
    """Return one batch of single items, each a mapping of ``[*shape]``; at least one item."""
    return Batch({name: torch.stack([item[name] for item in items]) for name in items[0]})


def joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of all items; at least one batch."""
    return Batch({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})


def empty_batch(spec: Spec, count: int) -> Batch:
    """Return items of any values, on the current device: for passes on the device ``meta``, which knows shapes only."""
    return Batch({name: torch.empty(count, *field.shape, dtype=DTYPES[field.dtype]) for name, field in spec.items()})


def example_batch(spec: Spec, count: int, seed: int = EXAMPLE_SEED) -> Batch:
    """Return random items of a spec, the same for a seed, for checks that must not read data.

    Floating-point fields are standard normal, integer fields uniform, and every entry of a ``.there`` field is 0 or 1 with
    equal chance.
    """
    generator = torch.Generator().manual_seed(seed)
    fields: dict[str, torch.Tensor] = {}
    for name, field in spec.items():
        size = (count, *field.shape)
        if name.endswith(THERE):
            fields[name] = torch.randint(0, 2, size, generator=generator).to(DTYPES[field.dtype])
        elif field.dtype == "int64":
            fields[name] = torch.randint(field.low, field.high, size, generator=generator)
        else:
            fields[name] = torch.randn(size, generator=generator)
    return Batch(fields)
