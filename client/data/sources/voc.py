"""Boxes in PASCAL VOC's XML, one file for each image, with bounds and without entities.

VOC counts pixels from 1 and includes both ends; a box here begins before its first pixel and ends after its last one.
"""

from xml.parsers import expat

from salus.client.data.sources.boxes import Boxes, RawBox
from salus.common.errors import UnreadableImage

MAX_XML_BYTES = 4 * 2**20
MAX_DEPTH = 20
MAX_TEXT = 1000  # of one element
CORNERS = ("ymin", "xmin", "ymax", "xmax")


def read_voc(data: bytes) -> Boxes:
    """Return the boxes of one file.

    Raises:
        UnreadableImage: ``damaged``, ``too-large``, or ``unsupported`` for a document type, which could declare entities.
    """
    if len(data) > MAX_XML_BYTES:
        raise UnreadableImage("too-large", f"XML of more than {MAX_XML_BYTES} bytes")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
        return Boxes(tuple(reader.boxes), reader.size())
    except (expat.ExpatError, ValueError, LookupError):
        raise UnreadableImage("damaged", "the boxes are not valid XML of PASCAL VOC") from None


class _Reader:
    """Collects the objects while the parser runs."""

    def __init__(self) -> None:
        self.boxes: list[RawBox] = []
        self._path: list[str] = []
        self._texts: dict[str, str] = {}
        self._size: dict[str, str] = {}

    def refuse(self, *_: object) -> None:
        raise UnreadableImage("unsupported", "XML with a document type or entities")

    def start(self, name: str, _: object) -> None:
        self._path.append(name)
        if len(self._path) > MAX_DEPTH:
            raise UnreadableImage("nested-too-deep", "the XML nests elements too deeply")
        if self._path[1:] == ["object"]:
            self._texts = {}

    def text(self, text: str) -> None:
        place = "/".join(self._path[1:])
        target = self._size if place.startswith("size/") else self._texts
        target[place] = (target.get(place, "") + text)[:MAX_TEXT]

    def end(self, name: str) -> None:
        if self._path[1:] == ["object"]:
            top, left, bottom, right = (float(self._texts[f"object/bndbox/{corner}"]) for corner in CORNERS)
            self.boxes.append(
                RawBox(self._texts["object/name"].strip(), (top - 1, left - 1), (bottom, right), shrunk=1.0)
            )
        self._path.pop()

    def size(self) -> tuple[int, int] | None:
        """Return rows and columns of the image, None where the file does not say."""
        try:
            rows, columns = int(self._size["size/height"]), int(self._size["size/width"])
        except (KeyError, ValueError):
            return None
        return (rows, columns) if rows and columns else None
