"""One image before and after each step: its picture, its size, and how far it is from what it was."""

import math
from dataclasses import dataclass

import numpy as np

from salus.client.outgoing.overlays import overlay
from salus.common.examples import Example
from salus.common.transforms.chain import Chain
from salus.common.transforms.compression import RATIO


@dataclass
class Step:
    """An image after one step.

    Args:
        name: such as ``median``; ``as stored`` before the first.
        change: mean absolute difference from the stored image; None where the grid changed.
        psnr_db: peak signal-to-noise ratio against the stored image, whose range is the peak; infinite where nothing changed.
        ratio: of a compression, how many times smaller the image was.
    """

    name: str
    example: Example
    change: float | None = None
    psnr_db: float | None = None
    ratio: str = ""
    picture: str = ""
    facts: tuple[str, str, str] = ("", "", "")

    def drawn(self) -> None:
        """Make the picture and the facts, and let go of the image."""
        image, spacing = self.example["image"], self.example.spacing_mm
        shown = image if len(image) == 3 and image.min() >= 0 and image.max() <= 1 else image[:1]
        empty = np.zeros((1, *image.shape[1:]), np.uint8)
        sides = spacing[4 - image.ndim :]
        self.picture = overlay(shown, empty, spacing_mm=sides)
        self.facts = (
            " x ".join(map(str, image.shape[1:])),
            " x ".join(f"{side:.3g}" for side in sides),
            f"{image.min():.4g} to {image.max():.4g}",
        )
        self.example = Example({})


def traced(chain: Chain, example: Example) -> list[Step]:
    """Return an image as stored and after each step."""
    steps = [Step("as stored", example)]
    for kind, step in zip(chain.kinds, chain.steps, strict=True):
        found = step(steps[-1].example, None)
        change, psnr = compared(example, found)
        ratio = found.facts.get(RATIO, "") if kind == "compress" else ""
        steps.append(Step(kind, found, change, psnr, ratio))
    return steps


def compared(before: Example, after: Example) -> tuple[float | None, float | None]:
    """Return the mean absolute difference of two images and the peak signal-to-noise ratio in dB; None on another grid."""
    one, other = before["image"].astype(np.float64), after["image"].astype(np.float64)
    if one.shape != other.shape:
        return None, None
    padding = before.padding_of("image")
    difference = (one - other)[~padding] if padding is not None else one - other
    squared = float((difference**2).mean()) if difference.size else 0.0
    peak = float(np.ptp(one)) or 1.0
    return float(np.abs(difference).mean()) if difference.size else 0.0, (
        math.inf if squared == 0 else 10 * math.log10(peak**2 / squared)
    )
