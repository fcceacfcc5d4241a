"""Every network of the registry and every task: checked at the start against the plain loop, and on which engine.

`test_segmentation_models` has the networks for segmentation with their own settings.
"""

import pytest
import torch
from tests.privacy.dp import test_segmentation_models

from salus.common.job import Lora, TaskSettings, parse_job
from salus.common.models import MODELS, build_model
from salus.common.models.lora import adapted_layers
from salus.common.tasks import TASKS, make_task
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.fast import FastClipper

TABLE = ()
ENGINES: list[tuple[str, str, tuple[int, ...], type]] = [
    ("classification", "cnn", (8, 8), FastClipper),
    ("classification", "cnn", (8, 6, 8), FastClipper),
    ("classification", "densenet121", (32, 32), FastClipper),
    ("classification", "convnext", (8, 8), FastClipper),
    ("classification", "convnext", (8, 6, 8), FastClipper),
    ("classification", "densenet", (8, 8), FastClipper),
    ("classification", "efficientnet", (8, 8), FastClipper),
    ("classification", "efficientnet", (8, 6, 8), FastClipper),
    ("classification", "inception", (8, 8), FastClipper),
    ("classification", "logistic", (8, 8), FastClipper),
    ("classification", "resnet50", (8, 8), FastClipper),
    ("classification", "vgg", (8, 8), FastClipper),
    ("classification", "vit", (8, 8), FastClipper),
    ("classification", "vit", (8, 4, 8), FastClipper),
    ("classification", "resnet18", (8, 8), FastClipper),
    ("detection", "retinanet", (16, 16), FastClipper),
    ("detection", "retinanet", (16, 16, 16), FastClipper),
    ("detection", "ssd", (16, 16), FastClipper),
    ("detection", "yolo", (16, 16), FastClipper),
    ("detection", "faster-rcnn", (16, 16), FastClipper),
    ("detection", "faster-rcnn", (16, 16, 16), FastClipper),
    ("detection", "centernet", (16, 16), FastClipper),
    ("detection", "centernet", (8, 8, 8), FastClipper),
    ("detection", "cornernet", (16, 16), FastClipper),
    ("diffusion", "diffusion-unet", (8, 6), FastClipper),
    ("diffusion", "diffusion-unet", (4, 4, 4), FastClipper),
    ("gan", "gan", (8, 6), FastClipper),
    ("gan", "gan", (4, 6, 4), FastClipper),
    ("generation-rnn", "row-rnn", (6, 5), FastClipper),
    ("vae", "vae", (8, 6), FastClipper),
    ("vae", "vae", (4, 6, 4), FastClipper),
    ("explained-classification", "cnn", (8, 8), FastClipper),
    ("fusion", "fusion-early", (8, 8), FastClipper),
    ("fusion", "fusion-late", (8, 8), FastClipper),
    ("fusion", "fusion-cross-attention", (8, 8), FastClipper),
    ("fusion", "fusion-cross-attention", (4, 4, 4), FastClipper),
    ("fusion", "fusion-autoencoder", (8, 8), FastClipper),
    ("multi-instance", "bag", (8, 8), FastClipper),
    ("multi-instance-findings", "bag", (8, 8), FastClipper),
    ("instances", "centres", (8, 8), FastClipper),
    ("instances", "mask-rcnn", (16, 16), FastClipper),
    ("tracking", "centres", (3, 8, 8), FastClipper),
    ("tracking", "mask-rcnn", (2, 16, 16), FastClipper),
    ("multilabel", "cnn", (8, 8), FastClipper),
    ("multilabel", "logistic", TABLE, FastClipper),
    ("ordinal", "cnn", (8, 8), FastClipper),
    ("ordinal", "logistic", TABLE, FastClipper),
    ("regression", "cnn", (8, 8), FastClipper),
    ("regression", "logistic", TABLE, FastClipper),
    ("sequence", "conv-lstm", (8, 8), FastClipper),
    ("sequence", "gru", (8, 8), FastClipper),
    ("sequence", "lstm", (8, 8), FastClipper),
    ("sequence", "transformer", (8, 8), FastClipper),
    ("survival", "cnn", (8, 8), FastClipper),
    ("survival", "mlp", TABLE, FastClipper),
    ("survival", "proportional-hazards", TABLE, FastClipper),
    ("svm", "logistic", TABLE, FastClipper),
    ("svm", "random-features", TABLE, FastClipper),
    ("tabular", "logistic", TABLE, FastClipper),
]
# Settings that make a network small.
DETECTOR = "widths = [4, 4, 4, 4]\nneck_width = 8\nmost_objects = 4"
TWO_STAGES = f"{DETECTOR}\nfine_sizes = [4.0]\ncoarse_sizes = [8.0]\nratios = [1.0]\nproposals = 4\nhidden = 8"
OWN = {
    "faster-rcnn": TWO_STAGES,
    "mask-rcnn": f"{TWO_STAGES}\nmask_size = 4\nmask_width = 4",
    **dict.fromkeys(
        ("retinanet", "ssd", "yolo"), f"{DETECTOR}\nfine_sizes = [4.0]\ncoarse_sizes = [8.0]\nratios = [1.0]"
    ),
    **dict.fromkeys(("centernet", "cornernet"), DETECTOR),
    "bag": "most_images = 3\nfeature_width = 8\nattention_width = 4",
    "conv-lstm": "most_images = 3\nmap_width = 8",
    "centres": "widths = [4, 8]\nmost_objects = 5",
    "convnext": "widths = [4, 8]\nblocks = [1, 1]\nkernel_size = 3",
    "densenet": "first_width = 8\ngrowth = 2\nblocks = [1, 1]",
    "efficientnet": "width = 0.25\ndepth = 0.25\nstages = 3",
    **dict.fromkeys(
        ("fusion-early", "fusion-late", "fusion-cross-attention", "fusion-autoencoder"),
        "vocabulary = 16\nmost_words = 3\nfeature_width = 8",
    ),
    "diffusion-unet": "widths = [8, 8]",
    "gan": "widths = [4, 8]\nlatent_size = 3",
    "row-rnn": "hidden_size = 8\nmixtures = 2",
    "vae": "widths = [4, 8]\nlatent_size = 3",
    "gru": "most_images = 3\nfeature_width = 8\nstate_width = 4",
    "inception": "widths = [8, 16]\nmodules = 1",
    "lstm": "most_images = 3\nfeature_width = 8\nstate_width = 4",
    "resnet50": "widths = [2, 2, 4, 4]",
    "transformer": "most_images = 3\nfeature_width = 8\nattention_blocks = 1",
    "vgg": "widths = [4, 8]\nconvolutions = 1\nhidden = 8",
    "vit": "hidden_size = 16\ndepth = 1\nheads = 2\nmlp_size = 16",
}
JOB = """
[job]
name = "registry"
rounds = 2
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = {classes}
{more}
"""


def settings(kind: str, model: str, shape: tuple[int, ...]) -> TaskSettings:
    columns = '[[task.columns]]\nname = "age"\n[[task.columns]]\nname = "sex"'
    more = (f"shape = {list(shape)}\n" if shape else "") + (columns if kind == "fusion" or not shape else "")
    classes = '["age"]' if kind in ("regression", "instances", "tracking") else '["a", "b", "c"]'
    more = f"{OWN.get(model, '')}\n{more}"
    if kind == "survival":
        more, classes = f"times = [1.0, 2.0, 3.0]\n{more}", '["until 1", "until 2", "until 3"]'
    return parse_job(JOB.format(kind=kind, model=model, classes=classes, more=more)).task


@pytest.mark.parametrize(("kind", "model", "shape", "engine"), ENGINES)
def test_a_network_agrees_with_the_loop_on_the_engine_that_is_stated(
    kind: str, model: str, shape: tuple[int, ...], engine: type
) -> None:
    task = settings(kind, model, shape)
    assert isinstance(checked_clipper(build_model(task, 0), make_task(task)), engine)


@pytest.mark.parametrize(
    ("kind", "model", "shape"),
    [("classification", "cnn", (8, 8)), ("classification", "cnn", (8, 6, 8)), ("classification", "resnet50", (8, 8)),
     ("classification", "convnext", (8, 8)), ("classification", "vit", (8, 8)), ("sequence", "gru", (8, 8)),
     ("tabular", "logistic", TABLE)],
)  # fmt: skip
def test_a_network_with_adapters_agrees_with_the_loop_on_the_fast_engine(
    kind: str, model: str, shape: tuple[int, ...]
) -> None:
    task = settings(kind, model, shape).changed(lora=Lora(rank=2))
    network = build_model(task, 0)
    with torch.no_grad():
        for layer in adapted_layers(network):  # zero at first, which would hide the gradient of the other factor
            layer.lora_up.weight.normal_(std=0.1)  # type: ignore[union-attr, operator]
    assert isinstance(checked_clipper(network, make_task(task)), FastClipper)


def test_every_network_and_every_task_is_in_a_table() -> None:
    segmenting = {model for model, *_ in test_segmentation_models.CASES} | {"vnet"}
    assert {model for _, model, *_ in ENGINES} | segmenting == set(MODELS.names())
    assert {kind for kind, *_ in ENGINES} | {"segmentation"} == set(TASKS.names())
