"""Networks by name. To add one: `common/models/<name>.py` with `build(task) -> Module`, one test, one line below.

No network has buffers (GroupNorm, never BatchNorm), because only parameters are summed.
"""

import difflib
import math
from collections.abc import Sequence

from salus.common.columns import columns_of
from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.lora import adapt, is_adapter
from salus.common.optional_torch import torch
from salus.common.registry import Registry
from salus.common.vectors import layout_of

MODELS = Registry(
    "model",
    "salus.models",
    {
        "attention-unet": "salus.common.models.attention_unet:build",
        "bag": "salus.common.models.sequence.bag:build",
        "centres": "salus.common.models.centres:build",
        "centernet": "salus.common.models.detectors.networks:centernet",
        "cnn": "salus.common.models.cnn:build",
        "conv-lstm": "salus.common.models.sequence.conv_lstm:build",
        "convnext": "salus.common.models.convnext:build",
        "cornernet": "salus.common.models.detectors.corners:build",
        "densenet": "salus.common.models.densenet:build",
        "densenet121": "salus.common.models.densenet121:build",
        "diffusion-unet": "salus.common.models.generation.diffusion_unet:build",
        "efficientnet": "salus.common.models.efficientnet:build",
        "faster-rcnn": "salus.common.models.detectors.two_stage:build",
        "fcn": "salus.common.models.fcn:build",
        "filter-bank": "salus.common.models.filter_bank:build",
        "fusion-autoencoder": "salus.common.models.fusion.autoencoder:build",
        "fusion-cross-attention": "salus.common.models.fusion.cross_attention:build",
        "fusion-early": "salus.common.models.fusion.early:build",
        "fusion-late": "salus.common.models.fusion.late:build",
        "gan": "salus.common.models.generation.gan:build",
        "gru": "salus.common.models.sequence.recurrent:build_gru",
        "inception": "salus.common.models.inception:build",
        "logistic": "salus.common.models.logistic:build",
        "lstm": "salus.common.models.sequence.recurrent:build_lstm",
        "mask-rcnn": "salus.common.models.detectors.masks:build",
        "mlp": "salus.common.models.mlp:build",
        "proportional-hazards": "salus.common.models.proportional_hazards:build",
        "random-features": "salus.common.models.random_features:build",
        "resnet18": "salus.common.models.resnet18:build",
        "resnet50": "salus.common.models.resnet50:build",
        "retinanet": "salus.common.models.detectors.networks:retinanet",
        "row-rnn": "salus.common.models.generation.row_rnn:build",
        "segresnet": "salus.common.models.segresnet:build",
        "ssd": "salus.common.models.detectors.networks:ssd",
        "transformer": "salus.common.models.sequence.transformer:build",
        "unet": "salus.common.models.unet:build",
        "unetr": "salus.common.models.unetr:build",
        "vae": "salus.common.models.generation.vae:build",
        "vgg": "salus.common.models.vgg:build",
        "vit": "salus.common.models.vit:build",
        "vnet": "salus.common.models.vnet:build",
        "yolo": "salus.common.models.detectors.networks:yolo",
    },
)


def build_model(task: TaskSettings, seed: int) -> torch.nn.Module:
    """Return the job's network with initial parameters that depend only on `seed`; torch's global state is unchanged.

    Parameters that the job does not train do not require gradients, see `freeze`.

    Raises:
        JobError: an unknown name, settings that the network does not support, or a network with buffers.
    """
    build = MODELS.get(task.model, error=JobError)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: torch.nn.Module = build(task)
        except (ValueError, RuntimeError):
            raise JobError(
                f"The model {task.model!r} cannot be built for shape {list(task.shape)}.",
                remedy="Choose another shape.",
            ) from None
        prepare(model, task)
    layout_of(model)
    return model


def prepare(model: torch.nn.Module, task: TaskSettings) -> None:
    """Give a network that was just built its adapters, and freeze what the job does not train; errors as in `freeze`."""
    if task.lora is not None:
        adapt(model, task.lora, task.trainable)
    freeze(model, task)


def freeze(model: torch.nn.Module, task: TaskSettings) -> None:
    """Let only the parameters that a job trains collect gradients.

    The others keep their first values, which follow from the job's seed or its start; they are neither sent nor clipped.

    Raises:
        JobError: an entry of ``task.trainable`` or ``task.frozen`` is the beginning of no parameter's name, or none is trained.
    """
    check_prefixes(model, task.trainable, task, "task.trainable")
    check_prefixes(model, task.frozen, task, "task.frozen")
    for name, parameter in model.named_parameters():
        if task.trainable or task.lora is not None:
            parameter.requires_grad_(is_adapter(name) or name.startswith(task.trainable or ("\0",)))
        elif name.startswith(task.frozen or ("\0",)):
            parameter.requires_grad_(False)
    if task.frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise JobError("Nothing is left to train: task.frozen lists every parameter.", remedy="Leave one part out.")


def check_prefixes(model: torch.nn.Module, prefixes: Sequence[str], task: TaskSettings, key: str) -> None:
    """Raise JobError for a prefix with which no parameter's name begins; the message has the nearest part that there is.

    Args:
        key: of the job file, which lists them.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            parts = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)})
            near = difflib.get_close_matches(prefix, parts, n=1, cutoff=0.3)
            raise JobError(
                f"No parameter of the model {task.model!r} begins with {prefix!r}, which {key} lists.",
                remedy=f"Did you mean {near[0]!r}?" if near else f"The model has {', '.join(parts[:8])}.",
            )


def input_features(task: TaskSettings) -> int:
    """Return the number of input values of one sample."""
    columns = columns_of(task)
    if columns:
        return sum(max(1, len(column.values)) for column in columns)
    return task.channels * math.prod(task.shape)
