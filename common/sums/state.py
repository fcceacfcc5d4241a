"""The public numbers between two steps of statistics, sent as JSON, so that every site reads the same doubles."""

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from salus.common.errors import WireError

MAX_STATE_BYTES = 10_000_000
STATE: TypeAdapter[list[float]] = TypeAdapter(list[Annotated[float, Field(allow_inf_nan=False)]])


def state_to_bytes(state: Sequence[float]) -> bytes:
    """Return the encoded state, which is also hashed into the session."""
    return json.dumps([float(value) for value in state], allow_nan=False).encode()


def state_from_bytes(blob: bytes, size: int) -> list[float]:
    """Read what `state_to_bytes` wrote; raises WireError unless it holds exactly `size` finite numbers."""
    try:
        state = STATE.validate_json(blob, strict=True) if len(blob) <= MAX_STATE_BYTES else []
    except ValidationError:
        state = None
    if state is None or len(state) != size:
        raise WireError(
            f"Expected {size} numbers as the state of the statistics.",
            remedy="Both sides must run the same version of Salus.",
        )
    return state
