"""One private step's gradient: our clipping engine, Opacus' hooks as the peer, plain training as the floor.

Each is measured in its own process, in turns, so that peak memory is separate; figures are medians.
"""

import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from salus.common.batch import Batch
from salus.common.errors import ConfigError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.simulations.benchmarks.environment import describe_machine, versions

SIDE, BATCH = 64, 16
REPEATS, WARM_UP = 7, 2
CLIP_NORM_L2 = 1.0
TASK = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(SIDE, SIDE))


class SmallUNet(nn.Module):
    """A 2-D U-Net of three levels with GroupNorm; it has no in-place operation, so that Opacus' hooks accept it."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((1, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in ((64, 128), (32, 64)))
        self.join = nn.ModuleList(_block(2 * a, a) for a in (64, 32))
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, 2, side, side]``."""
        levels = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            levels.append(x)
        for up, join, level in zip(self.up, self.join, reversed(levels[:-1]), strict=True):
            x = join(torch.cat([up(x), level], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


def _block(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
    return nn.Sequential(*layers)


def network(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network with inputs and targets; raises ConfigError for an unknown name."""
    torch.manual_seed(0)
    inputs = torch.randn(BATCH, 1, SIDE, SIDE)
    if name == "unet":
        return SmallUNet(), inputs, torch.randint(0, 2, (BATCH, SIDE, SIDE))
    if name not in ("resnet18", "cnn"):
        raise ConfigError(f"Expected resnet18, unet or cnn, got {name!r}.", remedy="Choose one with --net.")
    model = build_model(TASK.model_copy(update={"model": name}), 0)
    return model, inputs, torch.randint(0, 2, (BATCH,))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return mean cross-entropy, also over pixels if there are any."""
    return F.cross_entropy(outputs, targets)


def _floor(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]

    return step


def _ours(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    from salus.privacy.dp.clipping import make_clipper
    from salus.privacy.dp.patients import Patients

    def losses(network: nn.Module, batch: Batch) -> torch.Tensor:
        found = F.cross_entropy(network(batch["input"]), batch["target"], reduction="none")
        return found.flatten(1).mean(dim=1) if found.dim() > 1 else found

    clipper, batch = make_clipper(model, losses), Batch({"input": inputs, "target": targets})
    patients = Patients(torch.ones(BATCH, dtype=torch.long))
    return lambda: (clipper.clipped_sum(batch, patients, CLIP_NORM_L2), None)[1]


def _peer(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _without_inplace(model)
    hooked = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), 0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM_L2,
        expected_batch_size=BATCH,
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(hooked(inputs), targets).backward()  # type: ignore[no-untyped-call]
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
    torch.set_num_threads(2)
    step = KINDS[kind](*network(net))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while pipe.recv():
        started = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - started)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def run(*, quick: bool = False, net: str = "resnet18") -> dict[str, Any]:
    """Return seconds and peak memory of one gradient of each kind, measured in turns."""
    network(net)
    kinds = [kind for kind in KINDS if not (quick and kind == "peer")]
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for kind in kinds:
        pipes[kind], theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, kind, net), daemon=True).start()
        theirs.close()  # so that a process that dies causes an EOFError here instead of an endless wait
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(WARM_UP + (2 if quick else REPEATS)):
        for kind, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if turn >= WARM_UP:
                seconds[kind].append(taken)
    peak = {}
    for kind, pipe in pipes.items():
        pipe.send(False)
        peak[kind] = pipe.recv()
    middle = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "benchmark": "dp",
        "net": net,
        **{f"{kind}_s": round(middle[kind], 4) if kind in middle else None for kind in KINDS},
        **{f"{kind}_peak_mb": round(peak[kind], 1) if kind in peak else None for kind in KINDS},
        "ours_over_floor": round(middle["ours"] / middle["floor"], 3),
        "peer_over_floor": round(middle["peer"] / middle["floor"], 3) if "peer" in middle else None,
        "machine": describe_machine(),
        "versions": versions("torch", "opacus"),
    }
