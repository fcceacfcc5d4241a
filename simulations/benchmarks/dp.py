"""One private step's gradient: our clipping engine, Opacus' hooks as the peer, plain training as the floor.

Each is measured in its own process, in turns, so that peak memory is separate; figures are medians. `WORKLOADS` has
an entry for every network of the registry.
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

from salus.common.batch import Batch
from salus.common.errors import ConfigError
from salus.common.tasks.base import Step, Task
from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.benchmarks.workloads import WORKLOADS, workload

REPEATS, REPEATS_OF_ALL, WARM_UP = 7, 3, 2
CLIP_NORM_L2 = 1.0


def _floor(model: nn.Module, task: Task, own: Step, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        task.losses(model, batch, own).mean().backward()  # type: ignore[no-untyped-call]

    return step


def _ours(model: nn.Module, task: Task, own: Step, batch: Batch) -> Callable[[], None]:
    from salus.privacy.dp.clipping import VmapClipper, make_clipper
    from salus.privacy.dp.patients import Patients

    def loss(network: nn.Module, items: Batch) -> torch.Tensor:
        return task.losses(network, items, own)

    clipper = make_clipper(model, loss)
    patients = Patients(torch.ones(len(batch), dtype=torch.long))

    def step() -> None:
        nonlocal clipper
        try:
            clipper.clipped_sum(batch, patients, CLIP_NORM_L2)
        except RuntimeError:  # the check before a job would choose the fallback, too; it happens while warming up
            if isinstance(clipper, VmapClipper):
                raise
            clipper = VmapClipper(model, loss)
            clipper.clipped_sum(batch, patients, CLIP_NORM_L2)

    return step


def _peer(model: nn.Module, task: Task, own: Step, batch: Batch) -> Callable[[], None]:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _without_inplace(model)
    hooked = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM_L2,
        expected_batch_size=len(batch),
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.losses(hooked, batch, own).mean().backward()  # type: ignore[no-untyped-call]
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
    try:
        step, problem = KINDS[kind](*workload(net)), ""
    except Exception as error:
        step, problem = None, type(error).__name__
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while pipe.recv():
        started, worked = time.perf_counter(), time.process_time()
        try:
            if step is not None:
                step()
        except Exception as error:
            problem = type(error).__name__  # the peer does not support every network
        if problem:
            pipe.send(problem)
            return
        pipe.send((time.perf_counter() - started, time.process_time() - worked))
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def run(*, quick: bool = False, net: str = "resnet18", every: bool = False) -> dict[str, Any]:
    """Return seconds, CPU seconds and peak memory of one gradient of each kind, measured in turns.

    CPU seconds say more on a busy machine. A peer that does not support the network is null.

    Args:
        every: whether all networks are measured, with fewer repetitions; the result then has them as ``nets``. One that fails
            has its error in place of figures.
    """
    if every:
        measured: dict[str, Any] = {"nets": [_or_error(name, quick) for name in WORKLOADS]}
    else:
        workload(net)
        measured = measure(net, quick=quick, repeats=REPEATS)
    return {
        "benchmark": "dp",
        **measured,
        "machine": describe_machine(),
        "versions": versions("torch", "opacus", "monai"),
    }


def _or_error(net: str, quick: bool) -> dict[str, Any]:
    try:
        return measure(net, quick=quick, repeats=REPEATS_OF_ALL)
    except ConfigError as problem:
        return {"net": net, "error": str(problem)}


def measure(net: str, *, quick: bool, repeats: int) -> dict[str, Any]:
    """Return the figures of one network, each kind in a process of its own.

    Raises:
        ConfigError: our own engine or plain training failed.
    """
    kinds = [kind for kind in KINDS if not (quick and kind == "peer")]
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for kind in kinds:
        pipes[kind], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=_serve, args=(theirs, kind, net), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies causes an EOFError here instead of an endless wait
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    failed: dict[str, str] = {}
    for turn in range(WARM_UP + (2 if quick else repeats)):
        for kind in [kind for kind in kinds if kind not in failed]:
            found = _asked(pipes[kind], True)
            if isinstance(found, str):
                failed[kind] = found
            elif turn >= WARM_UP:
                taken[kind].append(found)
    peak = {kind: _asked(pipes[kind], False) for kind in kinds if kind not in failed}
    for process in processes:
        process.join()
    if failed.keys() - {"peer"}:
        raise ConfigError(f"A step of {net!r} failed with {failed}.", remedy="Report this as an error of Salus.")
    middle = {kind: [statistics.median(column) for column in zip(*taken[kind], strict=True)] for kind in peak}
    return {
        "net": net,
        **{f"{kind}_s": round(middle[kind][0], 4) if kind in middle else None for kind in KINDS},
        **{f"{kind}_cpu_s": round(middle[kind][1], 4) if kind in middle else None for kind in KINDS},
        **{f"{kind}_peak_mb": round(peak[kind], 1) if kind in peak else None for kind in KINDS},
        "ours_over_floor": _ratio(middle, "ours", 0),
        "peer_over_floor": _ratio(middle, "peer", 0),
        "ours_over_floor_cpu": _ratio(middle, "ours", 1),
        "peer_over_floor_cpu": _ratio(middle, "peer", 1),
        "peer_error": failed.get("peer"),
    }


def _asked(pipe: Connection, again: bool) -> Any:
    """Return a process's answer, or the name of the error that ended it."""
    try:
        pipe.send(again)
        return pipe.recv()
    except (EOFError, OSError) as problem:
        return type(problem).__name__


def _ratio(middle: dict[str, list[float]], kind: str, column: int) -> float | None:
    return round(middle[kind][column] / middle["floor"][column], 3) if kind in middle else None
