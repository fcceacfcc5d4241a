import numpy as np
import pytest
import torch

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models import MODELS, build_model
from salus.common.vectors import layout_of, read_parameters


def settings(model: str, shape: tuple[int, ...] = (32, 32), channels: int = 1) -> TaskSettings:
    return TaskSettings(
        kind="classification", model=model, dataset="d", classes=("a", "b", "c"), shape=shape, channels=channels
    )


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
@pytest.mark.parametrize("model", ["cnn", "densenet121", "resnet18"])
def test_every_network_maps_images_to_logits_without_buffers(model: str, shape: tuple[int, ...]) -> None:
    if model == "densenet121" and len(shape) == 3:
        shape = (32, 32, 32)
    network = build_model(settings(model, shape), seed=0)
    assert network(torch.zeros(2, 1, *shape)).shape == (2, 3)
    assert not list(network.buffers())


def test_the_seed_alone_decides_the_initial_parameters() -> None:
    state = torch.random.get_rng_state()
    task = settings("cnn")
    one, same, other = (build_model(task, seed) for seed in (1, 1, 2))
    layout = layout_of(one)
    assert np.array_equal(read_parameters(one, layout), read_parameters(same, layout))
    assert not np.array_equal(read_parameters(one, layout), read_parameters(other, layout))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_small_network_is_small() -> None:
    assert layout_of(build_model(settings("cnn"), 0)).size < 16_000


def test_resnet18_has_the_usual_size() -> None:
    assert 11_000_000 < layout_of(build_model(settings("resnet18"), 0)).size < 11_300_000


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(JobError, match="attention-unet, .*densenet121, .*vit"):
        build_model(settings("no-such-model"), 0)
    assert {"cnn", "densenet121", "logistic", "resnet18"} < set(MODELS.names())


def test_a_shape_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(JobError):
        build_model(settings("cnn", ()), 0)
