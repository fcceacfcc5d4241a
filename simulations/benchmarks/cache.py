"""One pass over a data set: decoded again, from the cache on disk, and from memory as the floor."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.loading import Memory, local_data
from salus.client.data.prefetch import batches
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.common.job import Job, parse_job
from salus.common.tasks import make_task
from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.phantoms import Hospital, write_hospital

PATIENTS, QUICK_PATIENTS, SIDE = 160, 12, 512
JOB = """
[job]
name = "cache"
rounds = 1
[task]
kind = "classification"
model = "resnet18"
dataset = "phantoms"
classes = ["healthy", "lesion"]
shape = [224, 224]
[training]
validation_fraction = 0.0
[privacy]
noise = "none"
"""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the seconds of a pass of batches of 32 in each of the three ways."""
    job = parse_job(JOB)
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        folder = Path(temporary)
        patients = QUICK_PATIENTS if quick else PATIENTS
        hospital = Hospital("C", "PhantomA Imaging", 1.0, (600, 1200), False, 0.5, 60, patients, damaged=0)
        write_hospital(folder / "data", hospital, seed=1, side=SIDE)
        catalogue = Catalogue(folder / "c.sqlite", b"secret of the benchmark", Decoding())
        catalogue.add("phantoms", "dicom", folder / "data", SourceOptions())
        disk = Memory(0, folder / "cache", 2**34)
        started = time.monotonic()
        _data(catalogue, job, disk)
        filling = time.monotonic() - started
        started = time.monotonic()
        cached = _data(catalogue, job, disk)
        reopening = time.monotonic() - started
        ours = _pass(cached)
        anew = _pass(_data(catalogue, job, Memory(0)))
        memory = _data(catalogue, job, Memory(2**34))
        floor = _pass(memory)
        used = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    return {
        "benchmark": "cache",
        "images": len(memory),
        "ours_s": round(ours, 3),
        "decoded_anew_s": round(anew, 3),
        "floor_in_memory_s": round(floor, 3),
        "speedup": round(anew / ours, 1),
        "filling_s": round(filling, 2),
        "reopening_s": round(reopening, 2),
        "cache_mb": round(used / 2**20, 1),
        "peer_s": None,
        "machine": describe_machine(),
        "versions": versions("torch", "pydicom"),
    }


def _data(catalogue: Catalogue, job: Job, memory: Memory) -> TensorSet:
    return local_data(catalogue, job, make_task(job.task), memory).train


def _pass(data: TensorSet) -> float:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    started = time.monotonic()
    for batch in batches(data, torch.split(order, 32), torch.device("cpu")):
        batch["image"].sum()
    return time.monotonic() - started
