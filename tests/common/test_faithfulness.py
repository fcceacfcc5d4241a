"""The numbers of explanations' faithfulness: known answers on a linear network, and each image by itself."""

import pytest
import torch
from torch import nn

from salus.common.faithfulness import likeness, log_odds, measured


class Linear(nn.Module):
    """Two classes: the sum of the pixels times weights, for the second one."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weights).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def blob(at: int) -> torch.Tensor:
    found = torch.zeros(1, 1, 12, 12)
    found[..., at : at + 4, 3:7] = 1.0
    return found


def test_the_pixels_that_matter_are_found() -> None:
    image = blob(2)
    right = Linear(image[0] - image.mean())  # of a picture without contrast it says nothing
    logits, numbers = measured(right, Linear(torch.randn(1, 12, 12)), image, 8)
    assert torch.allclose(logits, right(image))
    deletion, insertion, _ = numbers[0].tolist()
    # 16 of the 144 pixels are the blob, which is replaced first; of 18 more at each point each takes a little with it.
    odds = torch.tensor([16 * 8 / 9, *(16 * 8 / 81 - (18 * step - 16) / 81 for step in range(1, 9))])
    assert deletion == pytest.approx(float(torch.trapezoid(torch.sigmoid(odds), dx=1 / 8)), abs=1e-4)
    assert insertion == pytest.approx((0.5 * (0.5 + 1) + 7) / 8, abs=0.01)
    assert float(measured(right, right, image, 8)[1][0, 2]) == pytest.approx(1.0)  # the same map


def test_each_image_has_its_own_numbers_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    model, random = (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)) for _ in range(2))
    images = torch.randn(5, 1, 8, 8)
    together = measured(model, random, images, 3)[1]
    with torch.inference_mode():
        alone = [measured(model, random, images[k : k + 1], 3)[1][0] for k in range(5)]
    assert torch.allclose(torch.stack(alone), together, atol=1e-5)
    assert bool(((together >= 0) & (together <= 1)).all())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_that_says_nothing_finite_gives_bounded_numbers() -> None:
    _, numbers = measured(
        Linear(torch.full((1, 4, 4), torch.nan)), Linear(torch.ones(1, 4, 4)), torch.ones(2, 1, 4, 4), 2
    )
    assert bool(((numbers >= 0) & (numbers <= 1)).all())


def test_the_likeness_is_spearmans() -> None:
    from scipy.stats import spearmanr

    torch.manual_seed(0)
    one, other = torch.rand(3, 50), torch.rand(3, 50)
    other[0] += 2 * one[0]
    exact = [max(0.0, float(spearmanr(a, b).statistic)) for a, b in zip(one, other, strict=True)]
    assert likeness(one, other).tolist() == pytest.approx(exact, abs=1e-6)
    one, other = one.round(decimals=1), (other * 3).round()  # equal values
    one[1, :25], other[1, :20] = 0.0, 0.0
    exact = [max(0.0, float(spearmanr(a, b).statistic)) for a, b in zip(one, other, strict=True)]
    assert likeness(one, other).tolist() == pytest.approx(exact, abs=1e-6)
    assert likeness(torch.ones(1, 9), torch.rand(1, 9)).tolist() == [0.0]


def test_log_odds_are_those_of_the_softmax() -> None:
    logits, place = torch.randn(4, 5), torch.tensor([0, 4, 2, 1])
    share = torch.softmax(logits, dim=1).gather(1, place[:, None])[:, 0]
    assert torch.allclose(torch.sigmoid(log_odds(logits, place)), share, atol=1e-6)
