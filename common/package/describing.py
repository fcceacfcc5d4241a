"""What a model takes and gives, from its job: fields, classes, units, and the transforms before it."""

from typing import Any

from salus.common.columns import columns_of
from salus.common.job import Job
from salus.common.tasks import make_task


def inputs_of(job: Job) -> dict[str, Any]:
    """Return the description of a model's inputs and outputs as plain JSON."""
    task = job.task
    described: dict[str, Any] = {
        "format": 1,
        "job": job.job.name,
        "task": task.kind,
        "model": task.model,
        "classes": list(task.classes),
        "codes": [code.model_dump(mode="json") for code in task.codes],
        "modality": task.modality,
        "plane": task.plane,
        "shape": list(task.shape),
        "channels": task.channels,
        "columns": [column.model_dump(mode="json") for column in columns_of(task)],
        "transforms": [step.model_dump(mode="json") for step in task.transforms],
        "units": _units(job),
    }
    if job.statistics is not None:
        return described | {"statistics": job.statistics.model_dump(mode="json")}
    made = make_task(task)
    fields = {name: field for name, field in made.spec.items() if not field.noise}
    chain = [{"kind": kind, **entry.model_dump(mode="json")} for kind, entry in zip(*_steps(made.chain), strict=True)]
    return described | {
        "transforms": chain,
        "fields": {name: {"shape": list(field.shape), "dtype": field.dtype} for name, field in fields.items()},
    }


def _steps(chain: Any) -> tuple[Any, Any]:
    """Return the kinds and settings of the steps of an evaluation, where random ones are left out."""
    kept = [place for place, step in enumerate(chain.steps) if not step.random]
    return [chain.kinds[place] for place in kept], [chain.entries[place] for place in kept]


def _units(job: Job) -> dict[str, str]:
    """Return the units of what a model reads and says; a job states none for its numbers but those named here."""
    task = job.task
    units = {}
    if task.shape:
        units["shape"] = "pixels" if len(task.shape) == 2 else "voxels"
    if (unit := getattr(task, "unit", "")) and isinstance(unit, str):
        units["times"] = unit
    if task.modality == "CT":
        units["image"] = "Hounsfield units before the transforms"
    return units
