"""What `salus bench dp` measures: for each network of the registry a task, a size of batch and the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.errors import ConfigError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.strict import validate
from salus.common.tasks import make_task
from salus.common.tasks.base import Step, Task
from salus.common.tasks.steps import trained_by

CLASSES = ("a", "b")


@dataclass(frozen=True)
class Workload:
    """A network and what it is measured on.

    Args:
        kind, model: of the job.
        items: in a batch, each of another patient.
        shape: of an image; empty for a table.
        settings: further keys of the section ``task``.
    """

    kind: str
    model: str
    items: int = 16
    shape: tuple[int, ...] = (64, 64)
    settings: Mapping[str, Any] = field(default_factory=dict)


def classifier(model: str, **settings: Any) -> Workload:
    """Return the usual workload of a network for classification."""
    return Workload("classification", model, settings=settings)


def segmenter(model: str, **settings: Any) -> Workload:
    """Return the usual workload of a network for segmentation."""
    return Workload("segmentation", model, settings=settings)


def fusion(model: str) -> Workload:
    """Return the usual workload of a network for fusion: an image, a row of eight columns and a text."""
    columns = [{"name": f"column {number}"} for number in range(8)]
    return Workload("fusion", model, settings={"columns": columns})


def volumes(of: Workload) -> Workload:
    """Return the same workload in 3-D."""
    return Workload(of.kind, of.model, 4, (32, 32, 32), of.settings)


def several(kind: str, model: str) -> Workload:
    """Return the usual workload of a network for several images: eight of 32 x 32 pixels."""
    return Workload(kind, model, 8, (32, 32), {"most_images": 8})


SEGMENTERS = {
    "attention-unet": segmenter("attention-unet", widths=(16, 32, 64)),
    "fcn": segmenter("fcn", widths=(16, 32, 64)),
    "filter-bank": segmenter("filter-bank"),
    "segresnet": segmenter("segresnet", first_width=16),
    "unet": segmenter("unet", widths=(32, 64, 128), convolutions=2),
    "unetr": segmenter("unetr"),
    "vnet": segmenter("vnet"),
}
# By the name for --net. Every network of the registry has an entry; add yours.
WORKLOADS: dict[str, Workload] = {
    "bag": several("multi-instance", "bag"),
    "centres": Workload("instances", "centres", settings={"classes": ["cell"]}),
    "cnn": classifier("cnn"),
    **{
        name: Workload("detection", name)
        for name in ("retinanet", "ssd", "yolo", "centernet", "cornernet", "faster-rcnn")
    },
    **{f"{name}-3d": volumes(Workload("detection", name)) for name in ("retinanet", "centernet")},
    "conv-lstm": several("sequence", "conv-lstm"),
    "convnext": classifier("convnext"),
    "densenet": classifier("densenet"),
    "densenet121": classifier("densenet121"),
    "diffusion-unet": Workload("diffusion", "diffusion-unet", shape=(28, 28)),
    "efficientnet": classifier("efficientnet"),
    **{f"fusion-{how}": fusion(f"fusion-{how}") for how in ("early", "late", "cross-attention", "autoencoder")},
    "gan": Workload("gan", "gan", shape=(28, 28)),
    "gru": several("sequence", "gru"),
    "inception": classifier("inception"),
    "logistic": classifier("logistic"),
    "lstm": several("sequence", "lstm"),
    "mask-rcnn": Workload("instances", "mask-rcnn", settings={"classes": ["cell"]}),
    "mlp": classifier("mlp"),
    "proportional-hazards": Workload(
        "survival", "proportional-hazards", settings={"times": (1.0, 2.0, 3.0), "classes": ()}
    ),
    "random-features": classifier("random-features"),
    "transformer": several("sequence", "transformer"),
    "resnet18": classifier("resnet18"),
    "resnet50": classifier("resnet50", widths=(16, 32, 64, 128)),
    "row-rnn": Workload("generation-rnn", "row-rnn", shape=(28, 28)),
    "vae": Workload("vae", "vae", shape=(28, 28)),
    "vgg": classifier("vgg"),
    "vit": classifier("vit"),
    **SEGMENTERS,
    **{f"{name}-3d": volumes(entry) for name, entry in SEGMENTERS.items()},
}


def workload(name: str) -> tuple[nn.Module, Task, Step, Batch]:
    """Return a network, its task, the step that reads data and a batch of random items; only that step's parameters are trained.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in WORKLOADS:
        raise ConfigError(f"Expected one of {', '.join(WORKLOADS)}; got {name!r}.", remedy="Choose one with --net.")
    entry = WORKLOADS[name]
    task = make_task(task_settings(entry))
    model = build_model(task.settings, 0)
    step = next(step for step in task.steps if step.data)
    own = {id(parameter) for parameter in trained_by(model, step)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    return model, task, step, example_batch(task.spec, entry.items)


def task_settings(entry: Workload) -> TaskSettings:
    """Return the section ``task`` of a workload."""
    values = {
        "kind": entry.kind, "model": entry.model, "dataset": "d", "classes": CLASSES, "shape": entry.shape, **entry.settings
    }  # fmt: skip
    return validate(TaskSettings.for_values(values), values, error=ConfigError, what="workload")
