"""What all extractors of local features share: their interface, and the grey pictures that they read.

image of any kind ── public intensity range, public size ──> grey pictures of 8 bits ──> descriptors, bounded in number
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.extras import required
from salus.common.registry import Registry
from salus.common.strict import Strict

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
SMALLEST = (
    16  # pixels of the shorter side; a narrower picture is continued by its last pixels, because OpenCV fails on it
)
MOST_SLICES = 8  # of a volume, evenly spaced; neighbouring slices show the same


class DescriptorSettings(Strict):
    """How local features are found; the extractor adds keys of its own.

    Args:
        extractor: Kind of the local features: `sift`, `dense-sift`, `orb` or `akaze`.
        picture_side: Pixels to which the longer side of every image is scaled before.
        most_keypoints: The most places of one image that are described: the strongest, or those of a coarser grid.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"extractor": "salus.common.features:EXTRACTORS"}

    extractor: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "dense-sift"  # the most accurate in trials
    picture_side: Annotated[int, Field(ge=SMALLEST, le=1024)] = (
        128  # the time grows with its square; twice the side of small images is enough
    )
    most_keypoints: Annotated[int, Field(ge=1, le=4096)] = 512  # with 128 words; fewer were less accurate in trials


class Extractor(Protocol):
    """Local features, built as ``Kind(settings)``.

    Guarantees that every implementation must give:

    - every descriptor has entries in -1 .. 1 and a Euclidean norm of at most 1;
    - there are at most `most` of a picture, in an order that depends on the picture only, whatever the number of threads;
    - no picture of at least `SMALLEST` pixels a side raises an error.

    Attributes:
        size: numbers of one descriptor.
        low: smallest entry of a descriptor, 0 or -1.
    """

    size: ClassVar[int]
    low: ClassVar[float]

    def __init__(self, settings: Any) -> None: ...

    def __call__(self, picture: Picture, most: int) -> tuple[Floats, Floats]:
        """Return the places ``[n, 2]`` (y and x, as shares of the sides) and the descriptors ``[n, size]``, n at most `most`."""


@functools.cache
def opencv(what: str) -> Any:
    """Return OpenCV on one thread; raises ConfigError, naming `what` needs it, where it is not installed."""
    found = required("cv2", extra="features", what=what)
    found.setNumThreads(1)  # sites use threads of their own, and the order of results may depend on the number
    return found


def pictures_of(intensities: Floats, low: float, high: float, side: int, padding: Bools | None = None) -> list[Picture]:
    """Return an image as one grey picture, a volume as several of its slices; an empty list for what has no finite values.

    Args:
        intensities: ``[channels, *spatial]``, 2-D or 3-D; channels are averaged.
        low, high: intensities that become 0 and 255; those beyond are cut off.
        side: pixels of the longer side.
        padding: which intensities are no measurement; they become 0.
    """
    if intensities.size == 0 or intensities.ndim not in (3, 4) or not np.isfinite(intensities).all():
        return []
    scaled = np.clip((intensities.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    if padding is not None:
        scaled[padding] = 0.0
    grey = np.rint(scaled.mean(axis=0) * 255).astype(np.uint8)
    if grey.ndim == 2:
        return [_sized(grey, side)]
    places = np.unique(np.linspace(0, len(grey) - 1, min(len(grey), MOST_SLICES) + 2).round()[1:-1].astype(int))
    return [_sized(grey[place], side) for place in places]


def _sized(grey: Picture, side: int) -> Picture:
    """Return a picture whose longer side has `side` pixels and whose shorter side at least `SMALLEST`."""
    cv2 = opencv("An image feature")
    factor = side / max(grey.shape)
    height, width = (max(1, round(length * factor)) for length in grey.shape)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    found = cv2.resize(np.ascontiguousarray(grey), (width, height), interpolation=way)
    short = [(0, max(0, SMALLEST - length)) for length in found.shape]
    return np.ascontiguousarray(np.pad(found, short, mode="edge"))


def described(extractor: Extractor, pictures: list[Picture], most: int) -> tuple[Floats, Floats]:
    """Return places and descriptors of all pictures of one image, at most `most` together."""
    if not pictures:
        return np.zeros((0, 2), np.float32), np.zeros((0, extractor.size), np.float32)
    found = [extractor(picture, max(1, most // len(pictures))) for picture in pictures]
    places, rows = (np.concatenate(parts)[:most] for parts in zip(*found, strict=True))
    return places, rows


def strongest(detector: Any, picture: Picture, most: int, size: int) -> tuple[Floats, Floats]:
    """Return places and raw descriptors ``[n, size]`` of the keypoints with the largest response, at most `most`.

    Their order does not depend on how they were found. All are described before the strongest are chosen: OpenCV's descriptors
    of some keypoints alone may differ, because it builds its pyramid for those it is given.
    """
    keypoints, rows = detector.detectAndCompute(picture, None)
    found = with_places(picture, keypoints, rows, size)

    def rank(number: int) -> tuple[float, ...]:
        point = keypoints[number]
        return (-point.response, point.pt[1], point.pt[0], point.size, point.angle, point.octave)

    order = sorted(range(len(found[0])), key=rank)[:most]
    return found[0][order], found[1][order]


def with_places(picture: Picture, keypoints: Any, rows: Any, size: int) -> tuple[Floats, Floats]:
    """Return the places of keypoints, as shares of the sides, and their descriptors; nothing where OpenCV found nothing."""
    if rows is None or len(rows) == 0:
        return np.zeros((0, 2), np.float32), np.zeros((0, size), np.float32)
    sides = np.array(picture.shape, np.float32)
    places = np.array([[point.pt[1], point.pt[0]] for point in keypoints], np.float32) / sides
    return np.clip(places, 0.0, np.float32(1.0)), np.asarray(rows)


def bits(rows: npt.NDArray[Any]) -> Floats:
    """Return binary descriptors ``[n, bytes]`` as vectors of norm at most 1, so that distances count the bits that differ."""
    whole = np.unpackbits(rows.astype(np.uint8), axis=1)
    scaled: Floats = (whole / np.sqrt(whole.shape[1])).astype(np.float32)
    return scaled
