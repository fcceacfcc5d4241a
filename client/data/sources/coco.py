"""Boxes in COCO's JSON: one file for all images; ``[x, y, width, height]`` in pixels, from the upper left corner."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.sources.boxes import Boxes, RawBox
from salus.client.data.sources.dataset_json import parsed
from salus.client.data.targets import MAX_NAMES
from salus.common.errors import DataError

MAX_COCO_BYTES = 2**28
MAX_BOXES = 5_000_000


class Coco:
    """All boxes, by image.

    Args:
        data: of the file.
        name: for messages.

    Raises:
        DataError: not COCO's JSON, or too large.
    """

    def __init__(self, data: bytes, name: str) -> None:
        content = parsed(data, name, MAX_COCO_BYTES)
        try:
            self.names = _categories(content)
            self._images = {_number(image["id"]): image for image in _listed(content, "images")}
            places = {number: str(image["file_name"]) for number, image in self._images.items()}
            self._boxes: dict[int, list[RawBox]] = defaultdict(list)
            for annotation in _listed(content, "annotations"):
                self._boxes[_number(annotation["image_id"])].append(self._box(annotation))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"Expected {name!r} to have 'images', 'annotations' and 'categories' as in COCO.",
                remedy="Export the boxes as COCO JSON again.",
            ) from None
        short = Counter(PurePosixPath(place).name for place in places.values())
        self._exact = {place: number for number, place in places.items()}
        self._short = {PurePosixPath(p).name: n for n, p in places.items() if short[PurePosixPath(p).name] == 1}
        self._outlined = any(box.outlines for boxes in self._boxes.values() for box in boxes)

    def _box(self, annotation: Mapping[str, Any]) -> RawBox:
        left, top, width, height = (float(value) for value in annotation["bbox"])
        name = self.names[_number(annotation["category_id"])]
        crowd = bool(annotation.get("iscrowd", 0))
        outlines = _outlines(annotation.get("segmentation"))
        return RawBox(name, (top, left), (top + height, left + width), crowd=crowd, outlines=outlines)

    def of(self, image: str, root: str) -> Boxes | None:
        """Return the boxes of an image, or None if the file does not list it.

        Args:
            root: folder of the JSON file, from which its names may count.
        """
        number = self._number_of(image, root)
        if number is None:
            return None
        entry = self._images[number]
        rows, columns = entry.get("height"), entry.get("width")
        size = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) and rows and columns else None
        return Boxes(tuple(self._boxes.get(number, ())), size, tuple(self.names.values()), self._outlined)

    def _number_of(self, image: str, root: str) -> int | None:
        path = PurePosixPath(image)
        number = self._exact.get(image)
        if number is None and root and path.is_relative_to(root):
            number = self._exact.get(str(path.relative_to(root)))
        return self._short.get(path.name) if number is None else number

    def without_image(self, found: Collection[str], root: str) -> list[tuple[str, str]]:
        """Return a name and a reason for each entry that has no image: boxes of images that are not listed, and lost images.

        Args:
            found: the images that have boxes of this file.
        """
        used = {self._number_of(image, root) for image in found}
        lost = [(str(entry["file_name"]), "image-missing") for n, entry in self._images.items() if n not in used]
        strange = sorted(number for number in self._boxes if number not in self._images)
        return [*lost, *((f"image {number}", "boxes-without-image") for number in strange)]


def _categories(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the classes by their number, in order; raises ValueError for too many, or one that occurs twice."""
    pairs = sorted((_number(one["id"]), str(one["name"])) for one in _listed(content, "categories"))
    if len(pairs) > MAX_NAMES or len({name for _, name in pairs}) != len(pairs):
        raise ValueError
    return dict(pairs)


def _outlines(value: object) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the polygons of an object: COCO's lists of x and y; none for a mask in COCO's run-length encoding."""
    lines = value if isinstance(value, list) else []
    found = [np.array([float(one) for one in line], np.float64) for line in lines]
    if any(len(line) < 6 or len(line) % 2 for line in found):
        raise ValueError
    return tuple(line.reshape(-1, 2)[:, ::-1] for line in found)


def _listed(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = content[name]
    if not isinstance(found, list) or len(found) > MAX_BOXES:
        raise ValueError
    return found


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value
