import base64
import io

import numpy as np
import pytest
from PIL import Image

from salus.client.outgoing.overlays import COLOURS, MOST_IN_LEGEND, SIDE, legend, most_filled, overlay


def picture(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - np.array(colour)).max(axis=-1) < 20).sum())


def test_each_structure_is_drawn_in_its_own_colour_where_it_is() -> None:
    image = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(1, 32, 32)
    mask = np.zeros((32, 32), np.uint8)
    mask[4:12, 4:12], mask[20:28, 20:28] = 1, 3
    pixels = picture(overlay(image, mask))
    assert pixels.shape == (SIDE, SIDE, 3)
    top, bottom = pixels[: SIDE // 2, : SIDE // 2], pixels[SIDE // 2 :, SIDE // 2 :]
    assert near(top, COLOURS[0]) > 50 > near(bottom, COLOURS[0])
    assert near(bottom, COLOURS[2]) > 50 > near(top, COLOURS[2])
    stacked = np.stack([mask == 1, mask == 2, mask == 3])
    assert (picture(overlay(image, stacked)) == pixels).all()


def test_a_volume_shows_the_slice_with_most_of_the_mask() -> None:
    image = np.zeros((1, 5, 16, 24), np.float32)
    mask = np.zeros((5, 16, 24), np.uint8)
    mask[1, 3, 3], mask[3, 4:12, 4:20] = 1, 2
    assert most_filled(mask > 0) == 3
    pixels = picture(overlay(image, mask, spacing_mm=(5.0, 3.0, 1.0)))
    assert pixels.shape == (SIDE, SIDE // 2, 3)  # 48 mm by 24 mm
    assert near(pixels, COLOURS[1]) > 50
    assert near(pixels, COLOURS[0]) == 0
    empty = picture(overlay(image, mask * 0))
    assert (empty == empty[0, 0]).all()


@pytest.mark.parametrize("values", [np.nan, np.inf, 0.5])
def test_flat_colour_and_damaged_images_are_drawn(values: float) -> None:
    assert picture(overlay(np.full((1, 4, 4), values, np.float32), np.zeros((4, 4), np.uint8))).shape[2] == 3
    assert picture(overlay(np.full((3, 4, 4), values, np.float32), np.ones((4, 4), np.uint8))).shape[2] == 3


def test_the_legend_names_the_colour_that_is_painted() -> None:
    near = {"orange": (230, 159, 0), "sky blue": (86, 180, 233), "green": (0, 158, 115), "yellow": (240, 228, 66),
            "blue": (0, 114, 178), "red": (213, 94, 0), "pink": (204, 121, 167)}  # fmt: skip
    names = [f"s{number}" for number in range(9)]
    parts = legend(names).removeprefix("Colours: ").rstrip(".").split(", ")
    assert [near[part.split(" ", 1)[1]] for part in parts] == [COLOURS[place % len(COLOURS)] for place in range(9)]
    assert legend([]) == ""
    many = legend([f"s{number}" for number in range(1, 40)])
    assert many.count(",") == MOST_IN_LEGEND
    assert many.endswith("and 25 more structures in the same colours again.")
