"""Maps over images, as small pictures with their colour scale: orange speaks for what is explained, blue against it."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from salus.client.explaining.subject import Bools, FloatArray
from salus.client.outgoing.overlays import grey

# Colours that people with any colour vision can tell apart: vermillion and blue of Okabe and Ito 2008.
FOR, AGAINST, EDGE = (213, 94, 0), (0, 114, 178), (0, 255, 255)
OPACITY = 0.75  # of the strongest places
FAINT = 0.1  # weaker places than this share of the strongest are not coloured
QUALITY = 90
SIDE, SCALE, GAP = 288, 16, 6  # pixels of the picture, of its scale, and between them
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """The slice of an image that is shown.

    Args:
        image: ``[channels, rows, columns]``.
        region: what is annotated, ``[rows, columns]``; None if nothing is known.
        spacing_mm: of rows and columns; empty where unknown.
        place: number of the slice from 0; None for a picture.
    """

    image: FloatArray
    region: Bools | None
    spacing_mm: tuple[float, ...] = ()
    place: int | None = None

    def plain(self) -> str:
        """Return the image as a ``data:`` URL."""
        return _url(self._enlarged(grey(self.image)))

    def annotated(self) -> str:
        """Return the image with the edge of what is annotated."""
        assert self.region is not None  # Safe because callers look.
        return _url(self._with_edge(self._enlarged(grey(self.image))))

    def overlay(self, found: FloatArray) -> str:
        """Return the image with a map and its colour scale on the right.

        Args:
            found: ``[rows, columns]``.
        """
        picture = self._enlarged(grey(self.image)).astype(np.float32)
        largest = strongest(found)
        shares = np.zeros(found.shape, np.float32) if largest == 0 else found / largest
        share = np.asarray(
            Image.fromarray(shares).resize((picture.shape[1], picture.shape[0]), Image.Resampling.BILINEAR)
        )
        weight = np.where(np.abs(share) < FAINT, 0.0, np.abs(share))[..., None] * OPACITY
        colour = np.where(share[..., None] > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
        painted = (picture * (1 - weight) + colour * weight).astype(np.uint8)
        both = np.concatenate(
            [self._with_edge(painted), _scale(len(painted), negative=bool((found < 0).any()))], axis=1
        )
        return _url(both)

    def _enlarged(self, picture: Pixels) -> Pixels:
        """Return the picture in its true proportion, its longer side of `SIDE` pixels."""
        rows, columns = (float(side) for side in picture.shape[:2])
        if len(self.spacing_mm) >= 2 and min(self.spacing_mm) > 0:
            rows, columns = rows * self.spacing_mm[-2], columns * self.spacing_mm[-1]
        factor = SIDE / max(rows, columns)
        size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).copy()

    def _with_edge(self, picture: Pixels) -> Pixels:
        if self.region is None or not self.region.any():
            return picture
        size = (picture.shape[1], picture.shape[0])
        inside = np.asarray(Image.fromarray(self.region.astype(np.uint8) * 255).resize(size)) > 127
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        painted = picture.copy()
        painted[inside & ~core] = EDGE
        return painted


def strongest(found: FloatArray) -> float:
    """Return the largest absolute value, which the ends of the colour scale mean."""
    return float(np.abs(found).max(initial=0.0))


def peak_of(found: FloatArray) -> int | None:
    """Return the slice of a volume's map ``[z, y, x]`` in which its largest absolute value lies; None for other maps."""
    return int(np.unravel_index(int(np.abs(found).argmax()), found.shape)[0]) if found.ndim == 3 else None


def _scale(rows: int, *, negative: bool) -> Pixels:
    """Return the colour scale ``[rows, GAP + SCALE, 3]``: at the top what speaks most for it, at the bottom most against it."""
    values = np.linspace(1, -1 if negative else 0, rows)[:, None, None]
    weight = np.where(np.abs(values) < FAINT, 0.0, np.abs(values)) * OPACITY
    colour = np.where(values > 0, np.array(FOR), np.array(AGAINST))
    strip = (np.full((rows, SCALE, 3), 110.0) * (1 - weight) + colour * weight).astype(np.uint8)
    return np.concatenate([np.full((rows, GAP, 3), 255, np.uint8), strip], axis=1)


def _url(picture: Pixels) -> str:
    """Return a picture as a ``data:`` URL; JPEG, because a page has a dozen pictures for each case."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
