"""One private step's gradient: our clipping engine, Opacus' hooks as the peer, plain training as the floor.

Each is measured in its own process, in turns, so that peak memory is separate; figures are medians.
"""

import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.errors import ConfigError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.simulations.benchmarks.environment import describe_machine, versions

REPEATS, WARM_UP = 7, 2
CLIP_NORM_L2 = 1.0
IMAGES, VOLUMES = (16, (64, 64)), (4, (32, 32, 32))  # batch and shape in 2-D and 3-D
# Every family of networks; segmentation networks also in 3-D, as ``unet-3d``.
CLASSIFIERS = ("cnn", "resnet18")
SEGMENTERS: dict[str, dict[str, Any]] = {
    "attention-unet": {"widths": (16, 32, 64)},
    "fcn": {"widths": (16, 32, 64)},
    "filter-bank": {},
    "segresnet": {"first_width": 16},
    "unet": {"widths": (32, 64, 128), "convolutions": 2},
    "unetr": {},
    "vnet": {},
}
NETS = (*CLASSIFIERS, *SEGMENTERS, *(f"{name}-3d" for name in SEGMENTERS))


def workload(name: str) -> tuple[nn.Module, Task, Batch]:
    """Return a network, its task and a batch of random items; raises ConfigError for an unknown name."""
    if name not in NETS:
        raise ConfigError(f"Expected one of {', '.join(NETS)}; got {name!r}.", remedy="Choose one with --net.")
    batch, shape = VOLUMES if name.endswith("-3d") else IMAGES
    model = name.removesuffix("-3d")
    task = TaskSettings(
        kind="segmentation" if model in SEGMENTERS else "classification",
        model=model,
        dataset="d",
        classes=("a", "b"),
        shape=shape,
        **SEGMENTERS.get(model, {}),
    )
    made = make_task(task)
    return build_model(task, 0), made, example_batch(made.spec, batch)


def _floor(model: nn.Module, task: Task, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        task.losses(model, batch, task.steps[0]).mean().backward()  # type: ignore[no-untyped-call]

    return step


def _ours(model: nn.Module, task: Task, batch: Batch) -> Callable[[], None]:
    from salus.privacy.dp.clipping import make_clipper
    from salus.privacy.dp.patients import Patients

    clipper = make_clipper(model, lambda network, items: task.losses(network, items, task.steps[0]))
    patients = Patients(torch.ones(len(batch), dtype=torch.long))
    return lambda: (clipper.clipped_sum(batch, patients, CLIP_NORM_L2), None)[1]


def _peer(model: nn.Module, task: Task, batch: Batch) -> Callable[[], None]:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _without_inplace(model)
    hooked = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), 0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM_L2,
        expected_batch_size=len(batch),
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.losses(hooked, batch, task.steps[0]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.clip_and_accumulate()

    return step


class _Clone(nn.Module):
    """Returns a copy, so that later layers may change it in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the copy."""
        return x.clone()


def _without_inplace(model: nn.Module) -> None:
    """Let Opacus' hooks work on networks that change a layer's output in place: ReLU(inplace) and ``out += residual``."""
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
        elif isinstance(layer, nn.GroupNorm):
            setattr(model, name, nn.Sequential(layer, _Clone()))
        else:
            _without_inplace(layer)


KINDS = {"floor": _floor, "ours": _ours, "peer": _peer}


def _serve(pipe: Connection, kind: str, net: str) -> None:
    """Run in a process: measure one step for each request, and finally report the peak memory above that at the start."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # one thread says more on a busy machine
    step = KINDS[kind](*workload(net))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while pipe.recv():
        started, worked = time.perf_counter(), time.process_time()
        try:
            step()
        except Exception as problem:
            pipe.send(type(problem).__name__)  # the peer does not support every network
            return
        pipe.send((time.perf_counter() - started, time.process_time() - worked))
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def run(*, quick: bool = False, net: str = "resnet18") -> dict[str, Any]:
    """Return seconds, CPU seconds and peak memory of one gradient of each kind, measured in turns.

    CPU seconds say more on a busy machine. A peer that does not support the network is null.
    """
    workload(net)
    kinds = [kind for kind in KINDS if not (quick and kind == "peer")]
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for kind in kinds:
        pipes[kind], theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, kind, net), daemon=True).start()
        theirs.close()  # so that a process that dies causes an EOFError here instead of an endless wait
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    failed: dict[str, str] = {}
    for turn in range(WARM_UP + (2 if quick else REPEATS)):
        for kind in [kind for kind in kinds if kind not in failed]:
            pipes[kind].send(True)
            found = pipes[kind].recv()
            if isinstance(found, str):
                failed[kind] = found
            elif turn >= WARM_UP:
                taken[kind].append(found)
    if failed.keys() - {"peer"}:
        raise ConfigError(f"A step of {net!r} failed with {failed}.", remedy="Report this as an error of Salus.")
    peak = {}
    for kind in [kind for kind in kinds if kind not in failed]:
        pipes[kind].send(False)
        peak[kind] = pipes[kind].recv()
    middle = {kind: [statistics.median(column) for column in zip(*taken[kind], strict=True)] for kind in peak}
    return {
        "benchmark": "dp",
        "net": net,
        **{f"{kind}_s": round(middle[kind][0], 4) if kind in middle else None for kind in KINDS},
        **{f"{kind}_cpu_s": round(middle[kind][1], 4) if kind in middle else None for kind in KINDS},
        **{f"{kind}_peak_mb": round(peak[kind], 1) if kind in peak else None for kind in KINDS},
        "ours_over_floor": _ratio(middle, "ours", 0),
        "peer_over_floor": _ratio(middle, "peer", 0),
        "ours_over_floor_cpu": _ratio(middle, "ours", 1),
        "peer_over_floor_cpu": _ratio(middle, "peer", 1),
        "peer_error": failed.get("peer"),
        "machine": describe_machine(),
        "versions": versions("torch", "opacus", "monai"),
    }


def _ratio(middle: dict[str, list[float]], kind: str, column: int) -> float | None:
    return round(middle[kind][column] / middle["floor"][column], 3) if kind in middle else None
