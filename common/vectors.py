"""Conversion between a model's parameters and one flat vector, the only form in which updates are summed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.errors import JobError, WireError
from salus.common.optional_torch import torch
from salus.common.tensors import Array, TensorSpec, decode_tensors, encode_tensors

FloatVector = npt.NDArray[np.float32]
# Far beyond the parameters of any trained network, and far below what overflows within a few layers.
LARGEST_PARAMETER = 1e6
STATE_PREFIX = "strategy/"  # in a model's file: what the coordinator's strategy keeps, which is not part of the model


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's trained parameters, in the model's own order; frozen ones are never sent."""

    specs: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(spec.shape) for spec in self.specs)

    def flatten(self, tensors: Mapping[str, Array]) -> FloatVector:
        """Return all parameters as one float32 vector of length `size`."""
        parts = [np.asarray(tensors[spec.name], dtype=np.float32).reshape(-1) for spec in self.specs]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def unflatten(self, vector: FloatVector) -> dict[str, Array]:
        """Return views into `vector`, one per parameter; raises WireError if the length is wrong."""
        if vector.shape != (self.size,):
            raise WireError(
                f"Expected a vector of {self.size} parameters, got {vector.size}.", remedy="Use the job's own model."
            )
        arrays: dict[str, Array] = {}
        offset = 0
        for spec in self.specs:
            count = math.prod(spec.shape)
            arrays[spec.name] = vector[offset : offset + count].reshape(spec.shape)
            offset += count
        return arrays

    def encode(self, vector: FloatVector) -> bytes:
        """Return the wire form of the model with these parameters."""
        return encode_tensors(self.unflatten(vector))

    def decode(self, data: bytes) -> FloatVector:
        """Return the parameters from the wire form; raises WireError for another model or a value that is not finite."""
        vector = self.flatten(decode_tensors(data, self.specs))
        if not np.isfinite(vector).all():
            raise WireError(
                "Expected finite parameters, got NaN or infinity.", remedy="Cancel the job; its training has diverged."
            )
        return vector


def layout_of(model: torch.nn.Module) -> Layout:
    """Return the layout of a model's trained parameters.

    Raises:
        JobError: the model keeps buffers. Shared statistics such as BatchNorm's are not a mean of per-patient quantities,
            cannot be weighted or protected per patient, and leak; use GroupNorm or InstanceNorm instead.
    """
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise JobError(
            f"Expected a model without buffers, but it has {buffers[0]!r} and {len(buffers) - 1} more.",
            remedy="Replace BatchNorm with GroupNorm.",
        )
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return Layout(tuple(TensorSpec(name, "float32", tuple(p.shape)) for name, p in trained))


def whole_layout(model: torch.nn.Module) -> Layout:
    """Return the layout of all of a model's parameters, frozen ones included."""
    return Layout(tuple(TensorSpec(name, "float32", tuple(p.shape)) for name, p in model.named_parameters()))


def frozen_of(model: torch.nn.Module) -> dict[str, Array]:
    """Return the parameters of a model that are not trained, by name."""
    return {
        name: np.asarray(p.detach().cpu().numpy(), dtype=np.float32)
        for name, p in model.named_parameters()
        if not p.requires_grad
    }


def read_parameters(model: torch.nn.Module, layout: Layout) -> FloatVector:
    """Return a copy of the parameters in the layout as one vector."""
    return layout.flatten({name: p.detach().cpu().numpy() for name, p in model.named_parameters()})


def write_parameters(model: torch.nn.Module, layout: Layout, vector: FloatVector) -> None:
    """Set the parameters in the layout from one vector."""
    arrays = layout.unflatten(vector)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in arrays:
                continue  # frozen
            parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))
