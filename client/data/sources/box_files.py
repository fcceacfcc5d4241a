"""Finds the boxes of the images in a folder: a VOC file for each image, or one COCO file for all of them."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from salus.client.data.records import Quarantined
from salus.client.data.sources.base import Files
from salus.client.data.sources.boxes import Boxes
from salus.client.data.sources.coco import MAX_COCO_BYTES, Coco
from salus.client.data.sources.settings import ImageSettings
from salus.client.data.sources.voc import MAX_XML_BYTES, read_voc
from salus.common.errors import DataError, UnreadableImage

VOC_FOLDER = "Annotations"
COCO_NAMES = ("annotations.json", "_annotations.coco.json", "coco.json")
SPLIT_FILES = {"train": "train", "val": "val", "test": "test"}
MAX_SPLIT_BYTES = 2**26


class BoxFiles:
    """The files with boxes of a data set.

    Args:
        images: names of all images.

    Raises:
        DataError: the file or folder that the options name does not exist or cannot be used.
    """

    def __init__(self, files: Files, options: ImageSettings, images: "frozenset[str]", names: list[str]) -> None:
        self._files, self._images = files, images
        self._coco: dict[str, Coco] = {}
        self._voc: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        self.orphans: frozenset[str] = frozenset()
        self._holders: frozenset[str] = frozenset()
        if options.annotations:
            names = _named(files, options.annotations)
        chosen = [name for name in names if _is_coco(name, bool(options.annotations))]
        for name in chosen:
            self._coco[name] = Coco(_read(files, name, MAX_COCO_BYTES), PurePosixPath(name).name)
        if not chosen:
            self._find_voc(names, images, bool(options.annotations))
            self._splits = dict(self._read_splits(names))

    def __bool__(self) -> bool:
        return bool(self._coco or self._voc or self.orphans)

    def _find_voc(self, names: list[str], images: "frozenset[str]", named: bool) -> None:
        """Match XML files with images by their names; the image of a name must be the only one."""
        found = {}
        for name in names:
            path = PurePosixPath(name)
            if path.suffix.lower() == ".xml" and (named or path.parent.name == VOC_FOLDER):
                found[path.stem] = name
        by_stem: dict[str, list[str]] = {}
        for image in images:
            by_stem.setdefault(PurePosixPath(image).stem, []).append(image)
        self._voc = {mine[0]: found[stem] for stem, mine in by_stem.items() if len(mine) == 1 and stem in found}
        self._holders = frozenset(found.values())
        self.orphans = frozenset(found.values()) - frozenset(self._voc.values())

    def _read_splits(self, names: list[str]) -> Iterator[tuple[str, str]]:
        for name in names:
            path = PurePosixPath(name)
            if path.parent.parts[-2:] == ("ImageSets", "Main") and path.suffix == ".txt" and path.stem in SPLIT_FILES:
                for word in _read(self._files, name, MAX_SPLIT_BYTES).decode("utf-8", "replace").split():
                    yield word, SPLIT_FILES[path.stem]

    def split_of(self, image: str) -> str:
        """Return the split that VOC's lists give an image, or nothing."""
        return self._splits.get(PurePosixPath(image).stem, "")

    def is_part(self, name: str) -> bool:
        """Return whether a file holds the boxes of an image."""
        return name in self._coco or name in self._holders

    def file_of(self, image: str) -> str:
        """Return the name of the file with an image's boxes, or nothing."""
        if image in self._voc:
            return self._voc[image]
        for name, coco in self._coco.items():
            if coco.of(image, str(PurePosixPath(name).parent)) is not None:
                return name
        return ""

    def of(self, image: str) -> tuple[Boxes | None, str]:
        """Return an image's boxes, None if it has none, and the text by which a change of them is noticed.

        Raises:
            UnreadableImage: the file with its boxes cannot be used.
        """
        name = self.file_of(image)
        if not name:
            return None, ""
        if name in self._coco:
            boxes = self._coco[name].of(image, str(PurePosixPath(name).parent))
        else:
            boxes = read_voc(_read(self._files, name, MAX_XML_BYTES + 1))
        return boxes, _text(boxes)

    def is_list(self, name: str) -> bool:
        """Return whether a file lists the boxes of many images."""
        return name in self._coco

    def problems(self, name: str) -> Iterator[Quarantined]:
        """Yield the entries of such a file that have no image."""
        root = str(PurePosixPath(name).parent)
        coco = self._coco[name]
        mine = [image for image in self._images if coco.of(image, root) is not None]
        for entry, reason in coco.without_image(mine, root):
            yield Quarantined(f"{name}/{entry}", reason, "an entry of the boxes without an image")


def _text(boxes: Boxes | None) -> str:
    found = [] if boxes is None else boxes.boxes
    plain = [[b.name, *b.low, *b.high, b.crowd, *(line.tolist() for line in b.outlines)] for b in found]
    return json.dumps(plain)


def _is_coco(name: str, named: bool) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".json" if named else path.name in COCO_NAMES or path.name.startswith("instances_")


def _named(files: Files, place: str) -> list[str]:
    try:
        return list(files.names(place))
    except UnreadableImage:
        pass
    try:
        files.size(place)
    except UnreadableImage:
        raise DataError(
            "Expected the file or folder of annotations in the data folder, found none of this name.",
            remedy="Check --annotations.",
        ) from None
    return [place]


def _read(files: Files, name: str, most: int) -> bytes:
    if files.size(name) > most:
        raise UnreadableImage("too-large", f"a file of more than {most} bytes")
    return bytes(files.read(name))
