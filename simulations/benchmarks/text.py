"""Burned-in text: how much of what was planted in generated images the detector finds, by size, contrast, font and background."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from salus.client.data.dicom.text import INSTALL, TextFinder, installed
from salus.common.errors import ConfigError
from salus.simulations.benchmarks.environment import describe_machine, versions

IMAGES, QUICK_IMAGES, SEED = 500, 20, 13
SIZES = (6, 8, 10, 12, 16, 24, 40)  # pixels of the font
CONTRASTS = (20, 40, 80, 160)  # grey levels above or below the background's mean
BACKGROUNDS = ("speckle", "black", "grey", "gradient")
SHAPES = ((240, 360), (300, 400), (360, 480))  # one tile of the detector each, so that 500 images take minutes
FONTS = Path("/usr/share/fonts/truetype/dejavu")
NAMES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf")
WORDS = (
    "DOE JANE",
    "MUELLER^HANS",
    "12.03.1961",
    "1961-03-12 F",
    "ID 4711-0815",
    "General Hospital",
    "Dr. Smith",
    "O'Brien, Mary",
)
FOUND = 0.95  # share of the text's pixels that must be blanked; what remains is at most an edge
MOST_LISTED = 200


@dataclass(frozen=True)
class Planted:
    """One text in one image.

    Args:
        contrast: grey levels between the text and the background's mean.
        covered: share of the text's pixels that were blanked.
    """

    text: str
    font: str
    size: int
    contrast: int
    background: str
    row: int
    column: int
    covered: float = 0.0


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the recall on planted text and the share of each clean image that is blanked for nothing.

    Raises:
        ConfigError: the detector is not installed.
    """
    if not installed():
        raise ConfigError("The text detector is not installed.", remedy=f"Install it: {INSTALL}.")
    finder, random = TextFinder(), np.random.default_rng(SEED)
    results, blanked, took = [], [], []
    for number in range(QUICK_IMAGES if quick else IMAGES):
        pixels, ink, planted = _image(random, number)
        started = time.process_time()
        covered = np.zeros(pixels.shape, bool)
        for row, column, height, width in finder.find(pixels[None]):
            covered[row : row + height, column : column + width] = True
        took.append(time.process_time() - started)
        share = float(covered[ink].mean())
        results.append(Planted(**{**asdict(planted), "covered": round(share, 3)}))
        down, right = np.nonzero(ink)
        near = np.zeros_like(ink)
        near[max(0, down.min() - 40) : down.max() + 40, max(0, right.min() - 40) : right.max() + 40] = True
        blanked.append(float(covered[~near].mean()))
    missed = [result for result in results if result.covered < FOUND]
    return {
        "benchmark": "text",
        "images": len(results),
        "ours_recall": _recall(results),
        "by_size": {size: _recall(r for r in results if r.size == size) for size in SIZES},
        "by_contrast": {level: _recall(r for r in results if r.contrast == level) for level in CONTRASTS},
        "by_background": {name: _recall(r for r in results if r.background == name) for name in BACKGROUNDS},
        "by_font": {name: _recall(r for r in results if r.font == name) for name in sorted({r.font for r in results})},
        "by_size_and_contrast": {
            f"{size} px, {level}": _recall(r for r in results if (r.size, r.contrast) == (size, level))
            for size in SIZES
            for level in CONTRASTS
        },
        "blanked_elsewhere": round(float(np.mean(blanked)), 5),
        "missed_entirely": sum(result.covered == 0 for result in missed),
        "misses": [asdict(result) for result in missed[:MOST_LISTED]],
        "ours_cpu_s_per_image": round(float(np.mean(took)), 2),
        "peer_s": None,
        "floor_s": None,
        "machine": describe_machine(),
        "versions": versions("onnxruntime", "rapidocr-onnxruntime"),
    }


def _recall(results: Iterable[Planted]) -> float | None:
    counted = Counter(result.covered >= FOUND for result in results)
    return round(counted[True] / counted.total(), 3) if counted else None


def _image(random: np.random.Generator, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], Planted]:
    """Return an image, which of its pixels are text, and what was planted; sizes and contrasts take turns."""
    size, contrast = SIZES[number % len(SIZES)], CONTRASTS[number // len(SIZES) % len(CONTRASTS)]
    rows, columns = SHAPES[int(random.integers(len(SHAPES)))]
    name = BACKGROUNDS[int(random.integers(len(BACKGROUNDS)))]
    background = _background(random, name, rows, columns)
    words = WORDS[int(random.integers(len(WORDS)))]
    label, font = _font(random, size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(words))
    row = int(random.integers(0, max(1, rows - bottom - 1)))
    column = int(random.integers(0, max(1, columns - right - 1)))
    place = (slice(row + top, row + bottom), slice(column + left, column + right))
    level = float(background[place].mean())
    grey = level + contrast if level + contrast <= 255 else level - contrast
    layer = Image.new("L", (columns, rows))
    ImageDraw.Draw(layer).text((column, row), words, font=font, fill=255)
    alpha = np.asarray(layer, np.float32) / 255
    pixels = (background * (1 - alpha) + grey * alpha).clip(0, 255).astype(np.uint8)
    return pixels, alpha > 0.3, Planted(words, label, size, contrast, name, row, column)


def _font(random: np.random.Generator, size: int) -> tuple[str, Any]:
    names = [name for name in NAMES if (FONTS / name).is_file()]
    place = int(random.integers(len(names) + 1))
    if place == len(names):
        return "Pillow", ImageFont.load_default(size)
    return names[place].removesuffix(".ttf"), ImageFont.truetype(str(FONTS / names[place]), size)


def _background(random: np.random.Generator, name: str, rows: int, columns: int) -> npt.NDArray[np.float32]:
    if name == "speckle":  # the amplitude of fully developed speckle is Rayleigh distributed
        depth = np.linspace(1.2, 0.5, rows)[:, None]
        return np.asarray(random.rayleigh(35, (rows, columns)) * depth, np.float32).clip(0, 255)
    level = {"black": 0.0, "grey": float(random.uniform(60, 150)), "gradient": 0.0}[name]
    slope = np.linspace(20, 160, columns)[None] if name == "gradient" else 0.0
    noise = 0.0 if name == "black" else random.normal(0, 6, (rows, columns))
    return np.asarray(np.full((rows, columns), level) + slope + noise, np.float32).clip(0, 255)
