"""Finished models and data for predictions: small, and with answers that are known beforehand."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from salus.common.job import Job, load_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters

JOB = """
[job]
name = "bright"
rounds = 1
[task]
kind = "{kind}"
model = "logistic"
dataset = "toy"
classes = ["dark", "bright"]
shape = [{shape}]
{task}
[privacy]
noise = "none"
"""


def write_job(path: Path, *, shape: str = "8, 8", task: str = "", kind: str = "classification") -> Job:
    """Write a job file and return the job."""
    path.write_text(JOB.format(shape=shape, task=task, kind=kind))
    return load_job(path)


def write_model(path: Path, job: Job, change: Any = None) -> Path:
    """Write a model that says ``bright`` exactly for images whose mean is above the middle of the grey scale."""
    network = build_model(job.task, 0)
    layout = layout_of(network)
    tensors = {name: np.array(value) for name, value in layout.unflatten(read_parameters(network, layout)).items()}
    for name, value in tensors.items():
        if value.ndim == 2:
            value[0], value[1] = -1.0, 1.0
        tensors[name] = value
    tensors["strategy/momentum"] = np.zeros(3, np.float32)  # what a coordinator keeps beside a model
    if change is not None:
        change(tensors)
    save_file(tensors, path)
    return path


def write_pictures(folder: Path, greys: dict[str, int]) -> Path:
    """Write flat grey pictures."""
    for name, grey in greys.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 10), grey, np.uint8)).save(folder / name)
    return folder
