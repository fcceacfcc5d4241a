"""Networks for items made of several images: against torch's own units, and what padding and order do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.errors import JobError
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.models.sequence.bag import Bag
from salus.common.models.sequence.recurrent import GRU, LSTM

FRAMES = 4
JOB = """
[job]
name = "s"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = ["a", "b"]
shape = [8, 8]
{more}
"""
SEQUENCES = ("gru", "lstm", "conv-lstm", "transformer")
ALL = [("sequence", model, "") for model in SEQUENCES] + [
    ("multi-instance", "bag", f'pooling = "{pooling}"') for pooling in ("attention", "max", "mean")
]


def network(kind: str, model: str, more: str = "") -> torch.nn.Module:
    width = "map_width" if model == "conv-lstm" else "feature_width"
    text = JOB.format(kind=kind, model=model, more=f"most_images = {FRAMES}\n{width} = 8\n{more}")
    return build_model(parse_job(text).task, 0).eval()


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, FRAMES, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "model", "more"), ALL)
@settings(max_examples=10, deadline=None)
@given(marks=st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES), seed=st.integers(0, 99))
def test_padding_has_no_influence(kind: str, model: str, more: str, marks: list[bool], seed: int) -> None:
    there = torch.tensor([marks, [True] * FRAMES]).float()
    given_, other = images(), images(seed + 1) * 100
    changed = torch.where(there[..., None, None, None] > 0, given_, other)
    net = network(kind, model, more)
    with torch.no_grad():
        found, again = net(given_, there), net(changed, there)
    assert torch.isfinite(found).all()
    assert torch.equal(found, again)


@pytest.mark.parametrize(("kind", "model", "more"), ALL)
def test_a_real_image_has_an_influence(kind: str, model: str, more: str) -> None:
    net, there = network(kind, model, more), torch.ones(2, FRAMES)
    changed = images()
    changed[:, 1] *= -3
    assert not torch.allclose(net(images(), there), net(changed, there))


@pytest.mark.parametrize("model", SEQUENCES)
def test_a_sequence_has_an_order(model: str) -> None:
    net, there = network("sequence", model), torch.ones(2, FRAMES)
    assert not torch.allclose(net(images(), there), net(images().flip(1), there), atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "max", "mean"])
def test_a_bag_has_none(pooling: str) -> None:
    net, there = network("multi-instance", "bag", f'pooling = "{pooling}"'), torch.ones(2, FRAMES)
    assert torch.allclose(net(images(), there), net(images().flip(1), there), atol=1e-6)


def test_attention_is_a_share_of_what_is_there() -> None:
    net = network("multi-instance", "bag")
    assert isinstance(net, Bag)
    shares = net.attention(images(), torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]]))
    assert torch.allclose(shares.sum(dim=1), torch.ones(2))
    assert shares[0, 2:].abs().sum() == 0


@pytest.mark.parametrize(("own", "torchs"), [(GRU, torch.nn.GRU), (LSTM, torch.nn.LSTM)])
def test_a_recurrent_unit_is_that_of_torch(own: type[GRU] | type[LSTM], torchs: type[torch.nn.GRU]) -> None:
    torch.manual_seed(0)
    mine, theirs = own(5, 3), torchs(5, 3, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(mine.given.weight)
        theirs.weight_hh_l0.copy_(mine.kept.weight)
        theirs.bias_ih_l0.copy_(mine.given.bias)
        theirs.bias_hh_l0.copy_(torch.zeros(1) if mine.kept.bias is None else mine.kept.bias)
        x = torch.randn(2, 6, 5)
        assert torch.allclose(mine(x, torch.ones(2, 6)), theirs(x)[0][:, -1], atol=1e-6)


def test_a_network_for_recognition_may_describe_an_image_but_not_the_network_itself() -> None:
    small = network("multi-instance", "bag", 'encoder = "resnet18"\nwidths = [2, 2, 4, 4]')
    assert small(images(), torch.ones(2, FRAMES)).shape == (2, 2)
    for encoder in ("gru", "bag", "unet"):
        with pytest.raises(JobError, match="encoder"):
            network("sequence", "gru", f'encoder = "{encoder}"')


def test_a_task_of_single_images_is_refused() -> None:
    with pytest.raises(JobError, match="several images"):
        build_model(parse_job(JOB.format(kind="classification", model="gru", more="")).task, 0)
    with pytest.raises(JobError, match="divide"):
        network("sequence", "transformer", "attention_heads = 3")
