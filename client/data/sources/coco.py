"""Boxes in COCO's JSON: one file for all images; ``[x, y, width, height]`` in pixels, from the upper left corner."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

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
            self._boxes: dict[int, list[RawBox]] = defaultdict(list)
            for annotation in _listed(content, "annotations"):
                self._boxes[_number(annotation["image_id"])].append(self._box(annotation))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"Expected {name!r} to have 'images', 'annotations' and 'categories' as in COCO.",
                remedy="Export the boxes as COCO JSON again.",
            ) from None
        places = {number: str(image["file_name"]) for number, image in self._images.items()}
        short = Counter(PurePosixPath(place).name for place in places.values())
        self._exact = {place: number for number, place in places.items()}
        self._short = {PurePosixPath(p).name: n for n, p in places.items() if short[PurePosixPath(p).name] == 1}
        self.strangers = sum(len(boxes) for image, boxes in self._boxes.items() if image not in self._images)

    def _box(self, annotation: Mapping[str, Any]) -> RawBox:
        left, top, width, height = (float(value) for value in annotation["bbox"])
        name = self.names[_number(annotation["category_id"])]
        crowd = bool(annotation.get("iscrowd", 0))
        return RawBox(name, (top, left), (top + height, left + width), crowd=crowd)

    def of(self, image: str, root: str) -> Boxes | None:
        """Return the boxes of an image, or None if the file does not list it.

        Args:
            root: folder of the JSON file, from which its names may count.
        """
        path = PurePosixPath(image)
        number = self._exact.get(image)
        if number is None and root and path.is_relative_to(root):
            number = self._exact.get(str(path.relative_to(root)))
        if number is None:
            number = self._short.get(path.name)
        if number is None:
            return None
        entry = self._images[number]
        rows, columns = entry.get("height"), entry.get("width")
        size = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) and rows and columns else None
        return Boxes(tuple(self._boxes.get(number, ())), size, tuple(self.names.values()))


def _categories(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the classes by their number, in order; raises ValueError for too many, or one that occurs twice."""
    pairs = sorted((_number(one["id"]), str(one["name"])) for one in _listed(content, "categories"))
    if len(pairs) > MAX_NAMES or len({name for _, name in pairs}) != len(pairs):
        raise ValueError
    return dict(pairs)


def _listed(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = content[name]
    if not isinstance(found, list) or len(found) > MAX_BOXES:
        raise ValueError
    return found


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value
