"""A finished model from its file, checked against the job that it is said to be of."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from salus.common.errors import JobError, storage_error
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.models.lora import merged
from salus.common.start.applying import stored_layout
from salus.common.vectors import STATE_PREFIX, Layout, write_parameters
from salus.common.versions import check_model_format

MAX_LISTED = 3
CHUNK = 2**20
TYPES = {"F16", "F32", "F64"}  # numpy has no bfloat16, and whole or complex numbers are no trained parameters


@dataclass(frozen=True)
class FinishedModel:
    """A network with its trained parameters, in evaluation mode.

    Args:
        sha256: of the file, hex.
    """

    network: torch.nn.Module
    sha256: str
    parameters: int


def load_model(path: Path, job: Job) -> FinishedModel:
    """Return the model in a safetensors file.

    Names and shapes are compared before a single number is read.

    Raises:
        JobError: not a safetensors file, of a newer format, or not a model of this job: a parameter is missing, unknown, or has
            another shape.
        StorageError: the file cannot be read.
    """
    if job.statistics is not None:
        raise JobError(
            "The model of a job of statistics is signed JSON and no network.", remedy="Apply it with: salus predict"
        )
    network = build_model(job.task, job.job.seed)
    layout = stored_layout(job, network)
    try:
        sha256 = _sha256(path)
        with safe_open(path, framework="numpy") as file:
            check_model_format(file.metadata(), path.name, error=JobError, must_state=False)
            slices = {
                name: file.get_slice(name)
                for name in file.keys()  # noqa: SIM118  # it is no mapping
                if not name.startswith(STATE_PREFIX)
            }
            _check(path.name, layout, {name: tuple(part.get_shape()) for name, part in slices.items()}, job)
            _check_types({part.get_dtype() for part in slices.values()})
            with np.errstate(over="ignore"):  # infinite then, and refused below
                values = {name: np.asarray(file.get_tensor(name), np.float32) for name in slices}
    except OSError as problem:
        raise storage_error(problem) or problem from None
    except SafetensorError:
        raise JobError(
            f"{path.name!r} is not a safetensors file.", remedy="Give the model's file: salus job show names it."
        ) from None
    vector = layout.flatten(values)
    if not np.isfinite(vector).all():
        raise JobError(
            "The model has parameters that are not finite.", remedy="Its training has diverged; use another."
        )
    write_parameters(network, layout, vector)
    return FinishedModel(merged(network).eval(), sha256, layout.size)


def _check(file: str, layout: Layout, found: dict[str, tuple[int, ...]], job: Job) -> None:
    wanted = {spec.name: spec.shape for spec in layout.specs}
    problems = [f"no parameter {name!r}" for name in wanted if name not in found]
    problems += [f"an unknown parameter {name[:80]!r}" for name in found if name not in wanted]
    problems += [
        f"{name!r} has shape {list(found[name])}, the job's model {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f", and {len(problems) - MAX_LISTED} more differences" if len(problems) > MAX_LISTED else ""
        raise JobError(
            f"{file!r} is not a model of the job {job.job.name!r} (model {job.task.model!r}, "
            f"{sum(math.prod(shape) for shape in wanted.values())} parameters): {'; '.join(problems[:MAX_LISTED])}{more}.",
            remedy="Give the job file with which this model was trained.",
        )


def _check_types(found: set[str]) -> None:
    wrong = sorted(found - TYPES)
    if wrong:
        raise JobError(
            f"The model has parameters of the type {wrong[0]}, expected {' or '.join(sorted(TYPES))}.",
            remedy="Give the file that Salus wrote, or convert it to float32.",
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
