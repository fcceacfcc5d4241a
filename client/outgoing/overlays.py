"""Small pictures of an image with a mask drawn over it, for a page that stays with the data."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from salus.client.data.records import FloatArray
from salus.common.examples import Array

SIDE = 192  # pixels of a picture's longer side
MOST_FRAMES = 6  # of a clip; enough to follow a track
FILL = 0.35  # opacity within a structure; its edge is opaque
# Okabe and Ito 2008: colours that people with any colour vision can tell apart.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
MOST_IN_LEGEND = 2 * len(COLOURS)
COLOUR_NAMES = ("orange", "sky blue", "green", "yellow", "blue", "red", "pink")  # of these, in their order
Pixels = npt.NDArray[np.uint8]


def legend(names: Sequence[str] | Mapping[int, str]) -> str:
    """Return which structure has which colour in `overlay` and `boxed`, as a sentence; empty without structures.

    Args:
        names: of the numbers 1, 2 ... of a mask, or by number where some are absent.

    >>> legend(["anterior", "posterior"]), legend({2: "posterior"})
    ('Colours: anterior orange, posterior sky blue.', 'Colours: posterior sky blue.')
    """
    named = names if isinstance(names, Mapping) else dict(enumerate(names, start=1))
    pairs = [f"{name} {COLOUR_NAMES[(number - 1) % len(COLOUR_NAMES)]}" for number, name in sorted(named.items())]
    if len(pairs) > MOST_IN_LEGEND:
        pairs = [
            *pairs[:MOST_IN_LEGEND],
            f"and {len(pairs) - MOST_IN_LEGEND} more structures in the same colours again",
        ]
    return f"Colours: {', '.join(pairs)}." if pairs else ""


def overlay(image: FloatArray, mask: Array, *, spacing_mm: tuple[float, ...] = (), side: int = SIDE) -> str:
    """Return an image with its mask as a ``data:`` URL; of a volume, the slice with most of the mask, else the middle one.

    Args:
        image: ``[channels, *spatial]``; grey values are stretched over the slice shown, colour is 0 .. 1.
        mask: ``[*spatial]`` numbers of structures, 0 for background; or ``[structures, *spatial]`` of 0 and 1.
        spacing_mm: of the image's axes; pixels that are not square are shown in the right proportion.
        side: pixels of the picture's longer side.
    """
    stacked = mask.ndim == image.ndim
    numbers = list(range(1, len(mask) + 1)) if stacked else [int(number) for number in np.unique(mask) if number > 0]
    layers = [(mask[number - 1] if stacked else mask == number).astype(bool) for number in numbers]
    if image.ndim == 4:
        place = most_filled(np.any(layers, axis=0) if layers else np.zeros(image.shape[1:], bool))
        image, layers = image[:, place], [layer[place] for layer in layers]
    return _url(_painted(image, dict(zip(numbers, layers, strict=True))), spacing_mm, side)


def strip(image: FloatArray, mask: Array, *, spacing_mm: tuple[float, ...] = ()) -> str:
    """Return up to `MOST_FRAMES` frames of a clip, evenly spaced, side by side with their objects as a ``data:`` URL.

    Args:
        image: ``[channels, frames, rows, columns]``, as in `overlay`.
        mask: ``[frames, rows, columns]`` numbers of objects, 0 for background; a number has one colour in all frames.
        spacing_mm: as in `overlay`.
    """
    frames = np.unique(np.linspace(0, len(mask) - 1, min(len(mask), MOST_FRAMES)).round().astype(int)).tolist()
    drawn = [
        _painted(image[:, frame], {int(number): mask[frame] == number for number in np.unique(mask[frame]) if number})
        for frame in frames
    ]
    return _url(np.concatenate(drawn, axis=1), spacing_mm, side=SIDE * len(drawn))


def boxed(
    image: FloatArray,
    shapes: Sequence[tuple[int, npt.NDArray[Any]]],
    *,
    spacing_mm: tuple[float, ...] = (),
    side: int = SIDE,
) -> str:
    """Return a two-dimensional image with closed lines around its objects as a ``data:`` URL.

    Args:
        image: as in `overlay`.
        shapes: class number, from 1, and corners ``[points, 2]`` (row, column); pixel 0 covers 0 to 1.
        side: pixels of the picture's longer side.
    """
    picture = Image.fromarray(grey(image))
    draw = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / SIDE))
    for number, points in shapes:
        line = [(float(column), float(row)) for row, column in points]
        draw.line([*line, line[0]], fill=COLOURS[(number - 1) % len(COLOURS)], width=width)
    return _url(np.asarray(picture), spacing_mm, side)


def most_filled(mask: npt.NDArray[np.bool_]) -> int:
    """Return the index along the first axis with most voxels; the middle one of an empty mask."""
    counts = mask.reshape(len(mask), -1).sum(axis=1)
    return int(counts.argmax()) if counts.any() else len(mask) // 2


def grey(image: FloatArray) -> Pixels:
    """Return ``[rows, columns, 3]``."""
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    if len(values) == 3:
        colour: Pixels = (np.clip(np.moveaxis(values, 0, -1), 0, 1) * 255).astype(np.uint8)
        return colour
    low, high = (float(value) for value in np.percentile(values[0], (1, 99)))
    grey = np.clip((values[0] - low) / (high - low if high > low else 1.0), 0, 1)
    return np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _painted(image: FloatArray, layers: Mapping[int, Array]) -> Pixels:
    """Return a two-dimensional image with structures by number."""
    picture = grey(image)
    for number, layer in layers.items():
        _paint(picture, layer.astype(bool), COLOURS[(number - 1) % len(COLOURS)])
    return picture


def _paint(picture: Pixels, inside: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Fill a structure translucently and draw its edge, in place."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    paint = np.array(colour, np.float32)
    picture[inside] = (picture[inside] * (1 - FILL) + paint * FILL).astype(np.uint8)
    picture[inside & ~core] = paint.astype(np.uint8)


def _url(picture: Pixels, spacing_mm: tuple[float, ...], side: int = SIDE) -> str:
    rows, columns = (float(side) for side in picture.shape[:2])
    if len(spacing_mm) >= 2:
        rows, columns = rows * spacing_mm[-2], columns * spacing_mm[-1]
    scale = side / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    buffer = io.BytesIO()
    Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
