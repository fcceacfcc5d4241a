"""Whether a chain gives what a task trains on, without data."""

from collections.abc import Sequence

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.transforms.base import UNKNOWN, with_sides
from salus.common.transforms.chain import Chain, Stage


def unresolved(spec: Spec) -> Spec:
    """Return the fields of a task as they are before any transform: the sides of images and masks are unknown."""
    dims = {len(field.shape) - 1 for field in spec.values() if field.spatial}
    return with_sides(spec, (UNKNOWN,) * dims.pop()) if dims else spec


def check_result(chain: Chain, task_spec: Spec) -> list[Stage]:
    """Return the stages of a chain for training after checking that the last one gives what the task trains on.

    Raises:
        JobError: a step does not fit, or the result has other shapes or sides that depend on the image.
    """
    stages = chain.stages(unresolved(task_spec))
    result = stages[-1].spec if stages else unresolved(task_spec)
    last = stages[-1].name if stages else "task.transforms"
    for name, field in task_spec.items():
        got = result[name].shape if name in result else None
        if got is not None and UNKNOWN in got:
            raise JobError(
                f"{last}: the sides of {name!r} still depend on the image: {shown(got)}.",
                remedy="End the chain with a resize, center-crop or random-crop to task.shape.",
            )
        if got != field.shape:
            raise JobError(
                f"{last}: expected {name!r} of {shown(field.shape)}, the chain gives {shown(got or ())}.",
                remedy="Correct the size of the last resize or crop, or task.shape.",
            )
    return stages


def shown(shape: Sequence[int]) -> str:
    """Return a shape for people, with ``?`` for a side that depends on the image."""
    return " x ".join("?" if side == UNKNOWN else str(side) for side in shape) or "nothing"
