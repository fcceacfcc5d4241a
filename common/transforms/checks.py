"""Whether a chain gives what a task trains on, without data."""

from collections.abc import Sequence

from salus.common.batch import Field, Spec
from salus.common.errors import JobError
from salus.common.tasks.base import Task
from salus.common.transforms.base import UNKNOWN, with_sides
from salus.common.transforms.chain import Chain, Stage
from salus.common.transforms.ranges import REMEDY, flat_step
from salus.common.transforms.rows import ROW

IMAGE = "image"


def unresolved(spec: Spec) -> Spec:
    """Return the fields of a task as they are before any transform: the sides of images and masks are unknown."""
    dims = {len(field.shape) - 1 for field in spec.values() if field.spatial}
    return with_sides(spec, (UNKNOWN,) * dims.pop()) if dims else spec


def check_chain(task: Task) -> list[Stage]:
    """Return the stages of a task's chain for training, after checking that it gives what the task takes.

    Raises:
        JobError: a step does not fit, the result has other shapes or sides that depend on the image, or copies of images are
            asked for that would all be the same. The message names the step.
    """
    spec: Spec = getattr(task, "spec_of_image", task.spec)  # an item may be made of several images
    stages = check_result(task.chain, spec)
    flat = "" if task.chain.measured else flat_step(task.chain)  # otherwise it depends on the images' units
    if flat:
        raise JobError(f"{flat}, but images come with values from 0 to 1 and would all be flat.", remedy=REMEDY)
    if not getattr(task, "any_size", False):
        check_result(task.chain, spec, training=False)
    if task.settings.copies > 1 and not task.chain.random:
        raise JobError(
            f"expected copies = 1, got {task.settings.copies}: no transform is random, so all copies would be the same.",
            remedy="Remove copies, or add a random transform such as rotate.",
        )
    return stages


def check_result(chain: Chain, task_spec: Spec, *, training: bool = True) -> list[Stage]:
    """Return the stages of a chain after checking its result; see `check_chain`.

    Args:
        training: whether random steps are included; in evaluation they are not.
    """
    given = unresolved(task_spec)
    if any(step.rows for step in chain.steps):
        given = {name: field for name, field in given.items() if name != ROW}
        given = {**given, IMAGE: Field((1, UNKNOWN, UNKNOWN), spatial=True)}  # any image: the steps do not ask which
    stages = chain.stages(given, training=training)
    result = stages[-1].spec if stages else given
    last = stages[-1].name if stages else "task.transforms"
    where = "" if training else " in evaluation, where random steps are left out,"
    for name, field in task_spec.items():
        got = result[name].shape if name in result else ()
        if not field.spatial:
            continue  # a task makes these of what it is given
        if UNKNOWN in got:
            raise JobError(
                f"{last}:{where} the sides of {name!r} still depend on the image: {shown(got)}.",
                remedy="End the chain with a resize, center-crop or random-crop to task.shape.",
            )
        if got != field.shape:
            raise JobError(
                f"{last}:{where} expected {name!r} of {shown(field.shape)}, the chain gives {shown(got)}.",
                remedy="Correct the size of the last resize or crop, or task.shape.",
            )
    return stages


def shown(shape: Sequence[int]) -> str:
    """Return a shape for people, with ``?`` for a side that depends on the image."""
    return " x ".join("?" if side == UNKNOWN else str(side) for side in shape) or "nothing"


def shown_fields(spec: Spec) -> str:
    """Return the sizes of the fields that a step works on: images and masks, or the row that it made of them."""
    fields = {name: field for name, field in spec.items() if field.spatial} or {
        name: field for name, field in spec.items() if field.shape
    }
    return ", ".join(f"{name} {shown(field.shape)}" for name, field in fields.items())
