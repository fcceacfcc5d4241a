"""A model and what its strategy sends beside it, as one blob: the tensors of the model, then those of the strategy."""

from collections.abc import Mapping

import numpy as np

from salus.common.errors import WireError
from salus.common.strategies.base import Sent
from salus.common.tensors import TensorSpec, decode_tensors, encode_tensors
from salus.common.vectors import STATE_PREFIX, FloatVector, Layout


def encode_model(layout: Layout, model: FloatVector, sent: Sent) -> bytes:
    """Return the wire form; without anything beside the model, it is that of the model alone."""
    beside = {STATE_PREFIX + name: np.asarray(vector, dtype=np.float32) for name, vector in sent.items()}
    return encode_tensors({**layout.unflatten(model), **beside})


def decode_model(data: bytes, layout: Layout, sizes: Mapping[str, int]) -> tuple[FloatVector, Sent]:
    """Return the model and what was sent beside it.

    Args:
        sizes: length of every vector beside the model, by name; they are known from the strategy before anything is read.

    Raises:
        WireError: other tensors, or a value that is not finite.
    """
    beside = tuple(TensorSpec(STATE_PREFIX + name, "float32", (size,)) for name, size in sizes.items())
    tensors = decode_tensors(data, (*layout.specs, *beside))
    model = layout.flatten(tensors)
    sent = {name: np.asarray(tensors[STATE_PREFIX + name], dtype=np.float32) for name in sizes}
    if not all(np.isfinite(vector).all() for vector in (model, *sent.values())):
        raise WireError(
            "Expected finite parameters, got NaN or infinity.", remedy="Cancel the job; its training has diverged."
        )
    return model, sent
