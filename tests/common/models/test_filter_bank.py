"""The fixed features against scipy's Gaussian filters, and what must hold for any image."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.filter_bank import SMALLEST_DEVIATION, FilterBank


def bank(shape: tuple[int, ...], **own: object) -> FilterBank:
    settings = TaskSettings(
        kind="segmentation", model="filter-bank", dataset="d", classes=("a", "b"), shape=shape, **own
    )
    model = build_model(settings, 0)
    assert isinstance(model, FilterBank)
    return model


@pytest.mark.parametrize("shape", [(20, 17), (11, 12, 13)])
def test_smoothed_images_and_first_derivatives_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    model = bank(shape, scales=(1.5,), derivatives=1)
    image = torch.randn(1, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = model.features(image)[0].numpy()
    plain = image[0, 0].numpy()
    orders = [(0,) * len(shape)] + [tuple(int(i == axis) for i in range(len(shape))) for axis in range(len(shape))]
    assert sorted(orders) == sorted(model._orders)
    for channel, order in enumerate([None, *model._orders]):
        # scipy's filter of order 1 differs by the factor 1 / scale, which the normalisation would remove without its floor.
        wanted = (
            plain
            if order is None
            else gaussian_filter(plain, 1.5, order, mode="nearest", truncate=3) * 1.5 ** sum(order)
        )
        wanted = (wanted - wanted.mean()) / (wanted.std() + SMALLEST_DEVIATION)
        np.testing.assert_allclose(found[channel], wanted, atol=1e-6)


def test_second_derivatives_of_a_parabola_are_constant_and_of_a_plane_zero() -> None:
    model = bank((40, 8), scales=(2.0,))
    row = torch.arange(40.0, dtype=torch.float64)[:, None].expand(40, 8)
    second = 1 + model._orders.index((2, 0))
    inner = slice(8, -8)
    flat, bent = (model.features(x[None, None])[0, second, inner] for x in (row, row**2))
    assert float(flat.std()) < 1e-9
    assert float(bent.std()) < 1e-9


def test_a_constant_image_has_no_features() -> None:
    assert float(bank((8, 8)).features(torch.full((1, 1, 8, 8), 7.0)).abs().max()) < 1e-2


def test_brightness_and_contrast_of_a_whole_image_change_nothing() -> None:
    model = bank((12, 12), place_powers=2)
    image = torch.randn(2, 1, 12, 12, dtype=torch.float64) * 100
    torch.testing.assert_close(model.features(image), model.features(3 * image + 50), rtol=1e-3, atol=1e-3)


def test_positions_tell_places_apart_and_images_share_them() -> None:
    model = bank((6, 7), place_powers=2)
    features = model.features(torch.randn(2, 1, 6, 7))[:, -len(model._places) :]
    assert torch.equal(features[0], features[1])
    assert len(torch.unique(features[0].flatten(1).mT, dim=0)) == 42


def test_only_the_head_is_trained_and_it_is_small() -> None:
    model = bank((20, 24, 20), place_powers=2)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"head"}
    assert sum(p.numel() for p in model.parameters()) == 707
    assert sum(p.numel() for p in bank((8, 8), hidden=()).parameters()) == (1 + 3 * 6) * 3 + 3
