"""A network as ONNX, by torch's exporter over `torch.export`, and compared with torch before it is used.

The graph holds the network alone: transforms, sliding windows, softmax or sigmoid, and what makes boxes of maps stay outside.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from salus.common.batch import example_batch
from salus.common.errors import JobError
from salus.common.extras import required
from salus.common.job import Job
from salus.common.tasks import make_task
from salus.common.tasks.generation import Generating

OPSET = 20  # of ONNX 1.15; has GroupNormalization's parts and the resizing that the networks need
TOLERANCE = 1e-4  # largest difference from torch, as a share of the largest output, at least of 1
BATCHES = (1, 3)  # sizes with which the graph is compared; it was traced with another one
TRACED = 2
GROWN = {2: (32, 64), 3: (32, 16, 48)}  # by dimensions: how much each side grows for the comparison at another size
SIDES = {2: ("height", "width"), 3: ("depth", "height", "width")}
WHAT = "An ONNX export"
OUTSIDE = "transforms before it, sliding windows, softmax or sigmoid, and what makes boxes or objects of maps"


@dataclass(frozen=True)
class Graph:
    """A network as ONNX.

    Args:
        data: the file.
        facts: opset, tolerance, inputs and outputs, as plain JSON.
    """

    data: bytes
    facts: dict[str, Any]


def to_onnx(job: Job, network: nn.Module) -> Graph:
    """Return a job's network as an ONNX file with any number of items in a batch, and images of any size where it allows that.

    Args:
        network: with its trained parameters, in evaluation mode.

    Raises:
        ConfigError: the extra ``onnx`` is not installed.
        JobError: the network cannot be exported, or the graph gives other numbers than torch; the message says why.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        required(module, extra="onnx", what=WHAT)
    names, tensors = _call(job, network)
    other = _grown(job, network, names, tensors)
    if other is not None:
        with suppress(JobError):  # a network that only torch runs at another size; the graph is then for one size
            return _graph(job, network, names, tensors, other)
    return _graph(job, network, names, tensors, None)


def _grown(job: Job, network: nn.Module, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return an image of another size, if that is the network's only input and torch can run it; else None."""
    grown = GROWN.get(len(job.task.shape))
    if names != ["image"] or grown is None or tensors[0].dim() != 2 + len(grown):
        return None
    size = [side + more for side, more in zip(tensors[0].shape[2:], grown, strict=True)]
    other = torch.rand(1, tensors[0].shape[1], *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            network(other)
    except Exception:  # of any network: made for one size
        return None
    return other


def _graph(
    job: Job, network: nn.Module, names: list[str], tensors: tuple[torch.Tensor, ...], other: torch.Tensor | None
) -> Graph:
    """Return the graph for images of one size, or of any size if there is one of another size for the comparison."""
    with torch.no_grad():
        outputs = _outputs(network(*tensors))
    given = ["output"] if len(outputs) == 1 else [f"output_{place}" for place in range(len(outputs))]
    free = [0] if other is None else [0, *range(2, other.dim())]
    with _quiet():
        try:
            program = torch.onnx.export(
                network, tensors, dynamo=True, verbose=False, opset_version=OPSET,
                dynamic_shapes=tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for _ in tensors),
                input_names=names, output_names=given,
            )  # fmt: skip
            assert program is not None  # Safe because dynamo=True.
            data: bytes = program.model_proto.SerializeToString()
        except Exception as problem:  # of any part of the exporter
            raise _refused(job, f"torch's exporter ends with {type(problem).__name__}") from None
    batches = [[tensor[torch.arange(size) % len(tensor)] for tensor in tensors] for size in BATCHES]
    sizes = [list(job.task.shape)] if other is None else [list(job.task.shape), list(other.shape[2:])]
    return Graph(
        data,
        {
            "format": 1,
            "opset": OPSET,
            "inputs": [_shape(name, tensor, other is not None) for name, tensor in zip(names, tensors, strict=True)],
            "outputs": _output_shapes(given, outputs, None if other is None else _outputs(network(other))),
            "spatial_size": "fixed" if other is None else "any size that the network takes",
            "tolerance": TOLERANCE,
            "largest_difference": _difference(
                job, network, data, names, batches if other is None else [*batches, [other]]
            ),
            "compared_with_batches_of": list(BATCHES),
            "compared_with_sizes": sizes,
            "not_inside": OUTSIDE,
        },
    )


def _call(job: Job, network: nn.Module) -> tuple[list[str], tuple[torch.Tensor, ...]]:
    """Return the names and values of the inputs with which a task calls a network for a prediction."""
    task = make_task(job.task)
    if isinstance(task, Generating):
        raise _refused(job, "images are generated by many passes, which are not one graph")
    batch = example_batch(task.spec, TRACED)
    seen: list[tuple[Any, ...]] = []
    handle = network.register_forward_pre_hook(lambda module, given: seen.append(given) if not seen else None)
    try:
        with torch.no_grad():
            task.infer(network, batch)
    finally:
        handle.remove()
    if not seen or not all(isinstance(value, torch.Tensor) for value in seen[0]):
        raise _refused(job, f"the task {job.task.kind!r} calls parts of it instead of the whole")
    known = {id(tensor): name for name, tensor in batch.fields.items()}
    names = [known.get(id(value), "image" if place == 0 else f"input_{place}") for place, value in enumerate(seen[0])]
    clean = [name.replace(".", "_") for name in names]
    return clean, tuple(value.detach().clone() for value in seen[0])


def _difference(
    job: Job, network: nn.Module, data: bytes, names: Sequence[str], batches: Sequence[Sequence[torch.Tensor]]
) -> float:
    """Return the largest difference between both; raises JobError if it is beyond the tolerance."""
    onnxruntime = required("onnxruntime", extra="onnx", what=WHAT)
    worst = 0.0
    for inputs in batches:
        with torch.no_grad():
            wanted = [output.numpy() for output in _outputs(network(*inputs))]
        try:
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            taken = {one.name for one in session.get_inputs()}  # one that has no effect is left out of a graph
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True) if name in taken}
            found = session.run(None, given)
        except Exception as problem:
            shape = " x ".join(map(str, inputs[0].shape)) if inputs else ""
            raise _refused(job, f"onnxruntime ends with {type(problem).__name__} for an input of {shape}") from None
        for ours, theirs in zip(found, wanted, strict=True):
            if ours.shape != theirs.shape:
                raise _refused(job, "the graph gives outputs of another size than torch")
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            worst = max(worst, float(np.abs(ours - theirs).max(initial=0)) / scale)
    if not worst <= TOLERANCE:
        raise _refused(job, f"the graph differs from torch by {worst:.1g}, more than {TOLERANCE:g}")
    return worst


def _outputs(found: Any) -> list[torch.Tensor]:
    parts = found if isinstance(found, tuple | list) else [found]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _shape(name: str, tensor: torch.Tensor, any_size: bool) -> dict[str, Any]:
    sides = SIDES[tensor.dim() - 2] if any_size else tensor.shape[2:]
    return {"name": name, "shape": ["batch", *tensor.shape[1:2], *sides], "dtype": _dtype(tensor)}


def _output_shapes(
    names: Sequence[str], outputs: Sequence[torch.Tensor], grown: Sequence[torch.Tensor] | None
) -> list[dict[str, Any]]:
    """Return names, types and shapes; a side that follows from the input's is ``null``."""
    others = outputs if grown is None else grown
    return [
        {
            "name": name,
            "shape": [
                "batch",
                *(one if one == two else None for one, two in zip(a.shape[1:], b.shape[1:], strict=True)),
            ],
            "dtype": _dtype(a),
        }
        for name, a, b in zip(names, outputs, others, strict=True)
    ]


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refused(job: Job, why: str) -> JobError:
    return JobError(
        f"The model {job.task.model!r} cannot be written as ONNX: {why}.",
        remedy="Leave out --onnx and --bundle; salus predict works with the package.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says about optional packages."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
