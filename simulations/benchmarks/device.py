"""Training on a GPU (or the CPU): plain, mixed-precision and private steps, memory, and how busy the loader keeps the device."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.loading import Memory, local_data
from salus.client.data.prefetch import batches
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet, Use
from salus.client.performance import Performance
from salus.common.batch import Batch, example_batch
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.privacy.dp.clipping import make_clipper
from salus.privacy.dp.patients import Patients
from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.benchmarks.workloads import WORKLOADS, task_settings
from salus.simulations.phantoms import Hospital, write_hospital

REPEATS, WARM_UP = 10, 3
CLIP_NORM_L2 = 1.0
NETS = {"unet-3d": (8, (64, 64, 64)), "resnet18": (64, (224, 224))}  # batch and shape, as in practice
QUICK = {"unet-3d": (2, (16, 16, 16)), "resnet18": (2, (32, 32))}
PATIENTS, QUICK_PATIENTS, SIDE, BATCH = 160, 12, 512, 32
JOB = """
format = 1
[job]
name = "device"
rounds = 1
[task]
kind = "classification"
model = "resnet18"
dataset = "phantoms"
classes = ["healthy", "lesion"]
shape = [224, 224]
{transforms}
[training]
validation_fraction = 0.0
[privacy]
noise = "none"
"""
RANDOM = """
[[task.transforms]]
kind = "rescale"
[[task.transforms]]
kind = "resize"
[[task.transforms]]
kind = "flip"
[[task.transforms]]
kind = "rotate"
"""


def run(*, quick: bool = False, device: str = "auto") -> dict[str, Any]:
    """Return milliseconds and peak memory of a step of each kind, and the device's busy share while a loader feeds it.

    Plain steps are also measured in full single precision, because a private step needs it.
    """
    performance = Performance.model_validate({"device": device})
    used = performance.torch_device()
    before = torch.backends.cudnn.allow_tf32
    try:
        steps = {name: _steps(name, *sizes, used, quick) for name, sizes in (QUICK if quick else NETS).items()}
        loading = _loading(used, quick)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else "CPU"
    machine = {**describe_machine(), "device": name}
    return {
        "benchmark": "device",
        **steps,
        "loading": loading,
        "machine": machine,
        "versions": versions("torch", "monai"),
    }


def _network(name: str, batch: int, shape: tuple[int, ...]) -> tuple[torch.nn.Module, Task, Batch]:
    settings = task_settings(replace(WORKLOADS[name], shape=shape))
    task = make_task(settings)
    return build_model(settings, 0), task, example_batch(task.spec, batch)


def _steps(name: str, size: int, shape: tuple[int, ...], device: torch.device, quick: bool) -> dict[str, Any]:
    model, task, batch = _network(name, size, shape)
    model, batch = model.to(device), batch.to(device)
    clipper = make_clipper(model, lambda network, items: task.losses(network, items, task.steps[0]))
    patients = Patients(torch.ones(size, dtype=torch.long)).to(device)

    def plain(*, mixed: bool, tf32: bool) -> Callable[[], object]:
        def step() -> None:
            torch.backends.cudnn.allow_tf32 = tf32
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                losses = task.losses(model, batch, task.steps[0])
            losses.mean().backward()  # type: ignore[no-untyped-call]

        return step

    def private() -> object:
        torch.backends.cudnn.allow_tf32 = False
        return clipper.clipped_sum(batch, patients, CLIP_NORM_L2)

    kinds = {
        "floor": plain(mixed=False, tf32=False),
        "floor_tf32": plain(mixed=False, tf32=True),
        "floor_bf16": plain(mixed=True, tf32=True),
        "ours": private,
    }
    result: dict[str, Any] = {"batch": size, "shape": list(shape)}
    for kind, step in kinds.items():
        seconds, result[f"{kind}_peak_mb"] = _measured(step, device, quick)
        result[f"{kind}_ms"] = round(1000 * seconds, 2)
    result["ours_over_floor"] = round(result["ours_ms"] / result["floor_ms"], 3)
    result["ours_over_floor_tf32"] = round(result["ours_ms"] / result["floor_tf32_ms"], 3)
    return result


def _measured(step: Callable[[], object], device: torch.device, quick: bool) -> tuple[float, float | None]:
    """Return the median seconds of a step, and the peak of the device's memory above that at its start in MB."""
    gpu, taken, start = device.type == "cuda", [], 0
    for turn in range(1 if quick else WARM_UP + REPEATS):
        if gpu:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            start = torch.cuda.memory_allocated(device)
        started = time.perf_counter()
        step()
        if gpu:
            torch.cuda.synchronize(device)
        if quick or turn >= WARM_UP:
            taken.append(time.perf_counter() - started)
    peak = round((torch.cuda.max_memory_allocated(device) - start) / 2**20, 1) if gpu else None
    return statistics.median(taken), peak


def _loading(device: torch.device, quick: bool) -> dict[str, Any]:
    """Return the device's busy share in one epoch of ResNet-18: seconds of the same steps on one batch that is already there,
    divided by the epoch's seconds."""
    job = parse_job(JOB.format(transforms=""))
    drawn = parse_job(JOB.format(transforms=RANDOM))
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        folder = Path(temporary)
        hospital = Hospital(
            "C", "PhantomA Imaging", 1.0, (600, 1200), False, 0.5, 60, QUICK_PATIENTS if quick else PATIENTS, damaged=0
        )
        write_hospital(folder / "data", hospital, seed=1, side=64 if quick else SIDE)
        catalogue = Catalogue(folder / "c.sqlite", b"secret of the benchmark", Decoding())
        catalogue.add("phantoms", "dicom", folder / "data", SourceOptions())
        disk, memory = Memory(0, folder / "cache", 2**34), Memory(2**34)
        sets = {
            "in_memory": _data(catalogue, job, memory),
            "from_disk_cache": _data(catalogue, job, disk),
            "random_transforms": _data(catalogue, drawn, memory),
        }
        found: dict[str, Any] = {"images": len(sets["in_memory"]), "batch": BATCH}
        for name, data in sets.items():
            found |= _epoch(name, data, job, device)
    return found


def _data(catalogue: Catalogue, job: Job, memory: Memory) -> TensorSet:
    return local_data(catalogue, job, make_task(job.task), memory).train


def _epoch(name: str, data: TensorSet, job: Job, device: torch.device) -> dict[str, float]:
    task = make_task(job.task)
    model = build_model(job.task, 0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    rows = torch.split(torch.arange(len(data)), BATCH)

    def epoch(parts: Any) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for batch in parts:
            optimizer.zero_grad(set_to_none=True)
            task.losses(model, batch, task.steps[0]).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    use = Use(b"secret", 0)
    resident = [next(iter(batches(data, [part], device, use))) for part in rows]
    epoch(resident)  # warms up
    floor, ours = epoch(resident), epoch(batches(data, rows, device, use))
    return {f"{name}_s": round(ours, 3), f"{name}_floor_s": round(floor, 3), f"{name}_busy": round(floor / ours, 3)}
