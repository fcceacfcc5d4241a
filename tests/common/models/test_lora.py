"""Low-rank adapters: nothing changes before training, the merged network is the same, and only adapters travel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.batch import example_batch
from salus.common.cost import cost_of
from salus.common.errors import JobError
from salus.common.job import Job, Lora, TaskSettings, parse_job
from salus.common.models import build_model
from salus.common.models.lora import adapted_layers, is_adapter, merged
from salus.common.tasks import make_task
from salus.common.vectors import layout_of
from salus.privacy.contribution import Shape
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.fast import FastClipper
from salus.privacy.shapes import shapes_of

JOB = """
[job]
name = "lora"
rounds = 2
[task]
kind = "classification"
model = "{model}"
dataset = "d"
classes = ["a", "b"]
shape = {shape}
{more}
"""


def job_of(model: str = "cnn", shape: tuple[int, ...] = (8, 8), more: str = "[task.lora]\nrank = 2") -> Job:
    return parse_job(JOB.format(model=model, shape=list(shape), more=more))


def network_of(task: TaskSettings, seed: int = 1) -> torch.nn.Module:
    """Return a network whose adapters do something."""
    network = build_model(task, 0)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return network


def test_before_training_an_adapted_network_is_the_plain_one() -> None:
    plain, adapted = job_of(more="").task, job_of().task
    batch = example_batch(make_task(plain).spec, 3)
    one, two = build_model(plain, 0), build_model(adapted, 0)
    assert torch.equal(one(batch["image"]), two(batch["image"]))
    assert {name for name, _ in two.named_parameters() if not is_adapter(name)} == {
        n for n, _ in one.named_parameters()
    }


@pytest.mark.parametrize(
    ("model", "shape"), [("cnn", (8, 8)), ("cnn", (8, 6, 8)), ("resnet18", (8, 8)), ("vit", (8, 8))]
)
def test_the_merged_network_gives_the_same_outputs_with_the_names_of_the_plain_one(
    model: str, shape: tuple[int, ...]
) -> None:
    more = "hidden_size = 16\ndepth = 1\nheads = 2\nmlp_size = 16\n" if model == "vit" else ""
    adapted, plain = job_of(model, shape, f"{more}[task.lora]\nscale = 0.5").task, job_of(model, shape, more).task
    network = network_of(adapted)
    whole = merged(network)
    batch = example_batch(make_task(plain).spec, 3)
    assert [name for name, _ in whole.named_parameters()] == [n for n, _ in build_model(plain, 0).named_parameters()]
    assert not list(adapted_layers(whole))
    assert list(adapted_layers(network)), "the network that was merged is unchanged"
    assert torch.allclose(network(batch["image"]), whole(batch["image"]), atol=1e-4)
    assert not torch.allclose(network(batch["image"]), build_model(plain, 0)(batch["image"]), atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 5), inputs=st.integers(1, 6), outputs=st.integers(1, 6), scale=st.floats(0.1, 2))
def test_merging_adds_the_product_of_the_factors(rank: int, inputs: int, outputs: int, scale: float) -> None:
    from salus.common.models.lora import adapt

    model = torch.nn.Sequential(torch.nn.Linear(inputs, outputs))
    before = model[0].weight.detach().double().numpy().copy()  # type: ignore[operator]
    adapt(model, Lora(rank=rank, scale=scale), ())
    with torch.no_grad():
        model[0].lora_up.weight.normal_()  # type: ignore[union-attr, operator]
    up, down = (model[0].get_submodule(name).weight.detach().double().numpy() for name in ("lora_up", "lora_down"))  # type: ignore[operator]
    found = merged(model)[0].weight.detach().numpy()  # type: ignore[index]
    assert np.allclose(found, before + scale * up @ down, atol=1e-5)


def test_only_the_adapters_and_what_is_trainable_are_trained_and_sent() -> None:
    job = job_of(more='trainable = ["12."]\n[task.lora]\nrank = 2')
    names = [spec.name for spec in layout_of(build_model(job.task, 0)).specs]
    assert names == [
        "0.lora_down.weight", "0.lora_up.weight", "4.lora_down.weight", "4.lora_up.weight",
        "8.lora_down.weight", "8.lora_up.weight", "12.weight", "12.bias",
    ]  # fmt: skip
    size = 2 * 9 + 16 * 2 + 2 * 16 * 9 + 32 * 2 + 2 * 32 * 9 + 32 * 2 + 2 * 32 + 2
    assert cost_of(job).parameters == size
    train: Shape = shapes_of(job)[0]
    assert train.parameters == size


def test_frozen_parts_are_not_trained() -> None:
    job = job_of(more='frozen = ["0.", "1."]')
    assert next(spec.name for spec in layout_of(build_model(job.task, 0)).specs) == "4.weight"


def test_private_gradients_of_a_network_with_a_frozen_first_part_agree_with_the_loop() -> None:
    task = job_of(more='frozen = ["0.", "1."]').task
    assert isinstance(checked_clipper(network_of(task), make_task(task)), FastClipper)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('[task.lora]\non = ["nothing."]', "No linear or convolution layer of the model begins with 'nothing.'"),
        ('trainable = ["12."]\n[task.lora]\non = ["12."]', "begins with '12.'"),
        ('frozen = ["nothing."]', "begins with 'nothing.', which task.frozen lists"),
        ('frozen = ["0", "1", "4", "5", "8", "9"]', "Nothing is left to train"),
    ],
)
def test_what_cannot_be_adapted_or_frozen_is_named(more: str, what: str) -> None:
    with pytest.raises(JobError, match=what):
        build_model(job_of(more=more).task, 0)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('frozen = ["0."]\ntrainable = ["12."]', "expected frozen without trainable"),
        ('frozen = ["0."]\n[task.lora]', "expected frozen without trainable"),
        ("[task.lora]\nrank = 0", "rank"),
        ("[task.lora]\nrank = 1000000", "rank"),
        ("[task.lora]\nscale = -1.0", "scale"),
        ("[task.lora]\nranks = 3", "did you mean 'rank'"),
    ],
)
def test_settings_that_are_not_valid_are_refused(more: str, what: str) -> None:
    with pytest.raises(JobError, match=what):
        job_of(more=more)


def test_a_grouped_convolution_has_no_adapter_and_stays_frozen() -> None:
    task = job_of("convnext", (8, 8), "widths = [4, 8]\nblocks = [1, 1]\nkernel_size = 3\n[task.lora]\nrank = 2").task
    network = build_model(task, 0)
    grouped = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert grouped
    assert not any(parameter.requires_grad for layer in grouped for parameter in layer.parameters())
