"""ORB: rotated binary tests at FAST corners (Rublee et al. 2011, ICCV), 256 bits, fast and free of patents."""

from typing import Any, ClassVar

from salus.common.features.base import Floats, Picture, bits, opencv, strongest

FOUND = 4096  # places among which the strongest are chosen
FAST = 5  # grey values of difference that make a corner; OpenCV's 20 finds none in soft radiographs
EDGE = 8  # pixels beside the border without a keypoint, and half the side of the described square; small pictures need both small


class Orb:
    """256 bits at each corner."""

    size: ClassVar[int] = 256
    low: ClassVar[float] = 0.0

    def __init__(self, settings: Any) -> None:
        self._orb = opencv('The extractor "orb"').ORB_create(
            nfeatures=FOUND, nlevels=4, edgeThreshold=EDGE, patchSize=2 * EDGE + 1, fastThreshold=FAST
        )

    def __call__(self, picture: Picture, most: int) -> tuple[Floats, Floats]:
        places, rows = strongest(self._orb, picture, most, self.size // 8)
        return places, bits(rows).reshape(-1, self.size)
