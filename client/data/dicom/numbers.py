"""The numbers and words of a header as devices really write them; what is not understood is refused by the element's name.

pydicom converts an element when it is read, and raises for a decimal comma, a wrong VR or a wrong length. Here an element is
parsed from its own bytes instead, so that one damaged element costs nothing unless its value is needed.
"""

import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from salus.common.errors import UnreadableImage

MOST_VALUES = 64  # of one element; the longest that matters here is a list of windows
LARGEST = 1e8  # beyond it a number is an identifier or damage
DIGITS = 9  # significant digits that are kept at every door, so that digits cannot carry text
# Sources of the forms: dcmjs-org/dcmjs#287 (comma), pydicom/pydicom#828 (wrong VR), #2170 (text where FD is expected).
NUMBER = re.compile(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?)\s*(mm|MM|Mm|hu|HU)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # -1,024: a decimal comma, or a separator
LARGE = {"RescaleIntercept", "WindowCenter", "WindowWidth"}  # of which thousands are as likely
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def not_understood(keyword: str, why: str) -> UnreadableImage:
    """Return the error for an element whose value matters and cannot be used; `why` never quotes the value."""
    return UnreadableImage("not-understood", f"{keyword} {why}")


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return an element's numbers, rounded to `DIGITS` significant digits; empty if it is absent or has no value.

    Raises:
        UnreadableImage: ``not-understood``, with the element's name: text that is not a number, a length that does not fit,
            more than `MOST_VALUES` values, or a value that is not finite or larger than `LARGEST`.
    """
    parts = _parts(dataset, keyword)
    if len(parts) > MOST_VALUES:
        raise not_understood(keyword, f"has more than {MOST_VALUES} values")
    return tuple(_number(part, keyword) for part in parts)


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return an element's first number, or None if it is absent or empty.

    Raises:
        UnreadableImage: as `numbers_of`, or different numbers where the standard has one: nobody can tell which is meant.
    """
    found = numbers_of(dataset, keyword)
    tag = tag_for_keyword(keyword)
    if len(set(found)) > 1 and tag is not None and dictionary_VM(tag) == "1":
        raise not_understood(keyword, "has several numbers where the standard has one")
    return next(iter(found), None)


def whole_of(dataset: Dataset, keyword: str, default: int, *, least: int = 0, most: int = 2**31 - 1) -> int:
    """Return an element's first value as a whole number in ``[least, most]``; errors as in `numbers_of`."""
    value = number_of(dataset, keyword)
    if value is None:
        return default
    if value != int(value) or not least <= value <= most:
        raise not_understood(keyword, f"is not a whole number from {least} to {most}")
    return int(value)


def words_of(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return an element's words in upper case without padding; empty if it is absent, empty or no text."""
    try:
        parts = _parts(dataset, keyword)
    except UnreadableImage:
        return ()
    return tuple(str(part).strip(" \0").upper() for part in parts)


def word_of(dataset: Dataset, keyword: str) -> str:
    """Return an element's first word in upper case without padding, or an empty string."""
    return next(iter(words_of(dataset, keyword)), "")


def safely(read: Callable[[], Any], default: Any) -> Any:
    """Return what `read` gives, or `default` where one damaged element of no meaning makes pydicom raise."""
    try:
        return read()
    except Exception:  # pydicom raises whatever the bytes cause
        return default


def items_of(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; raises UnreadableImage for an element that is there and is no sequence."""
    tag = tag_for_keyword(keyword)
    assert tag is not None  # Safe because keywords are written in the code.
    if tag not in dataset:
        return ()
    items = safely(lambda: dataset[tag].value, None)
    if items is None:  # pydicom keeps what it could read, and raises only the first time, for damage inside of an item
        items = safely(lambda: dataset[tag].value, None)
    if not items:  # absent, empty, or empty because it cannot be read
        raw = safely(lambda: dataset.get_item(tag), None)
        if items is None and getattr(raw, "value", None):
            raise not_understood(keyword, "is no sequence")
        return ()
    if isinstance(items, (str, bytes)) or not all(isinstance(item, Dataset) for item in items):
        raise not_understood(keyword, "is no sequence")
    found: Sequence[Dataset] = items
    return found


def has(dataset: Dataset, keyword: str) -> bool:
    """Return whether an element is there with a value, without converting it."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return False
    element = dataset.get_item(tag)
    value = None if element is None else element.value
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def rounded(value: float) -> float:
    """Return a number with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _number(part: object, keyword: str) -> float:
    if isinstance(part, str):
        found = NUMBER.fullmatch(part.strip(" \0\t\r\n"))
        if found is None:
            raise not_understood(keyword, "is not a number")
        if keyword in LARGE and THOUSANDS.fullmatch(found[1]):
            raise not_understood(keyword, "has a comma that may separate thousands or decimals")
        value = float(found[1].replace(",", "."))
    else:
        try:
            value = float(part)  # type: ignore[arg-type]  # numbers of pydicom and Python
        except (TypeError, ValueError, OverflowError):
            raise not_understood(keyword, "is not a number") from None
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise not_understood(keyword, f"is not a finite number of at most {LARGEST:g}")
    return rounded(value)


def _parts(dataset: Dataset, keyword: str) -> list[object]:
    """Return the single values of an element: texts, or numbers where it was written in binary."""
    tag = tag_for_keyword(keyword)
    assert tag is not None  # Safe because keywords are written in the code.
    if tag not in dataset:
        return []
    element = dataset.get_item(Tag(tag))
    value = element.value if element is not None else None
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        vr = element.VR if element.VR not in (None, "UN") else _expected(tag, element.is_implicit_VR, value)
        return _split(value, vr or "LO", keyword, little=element.is_little_endian)
    if isinstance(value, bytes):
        return _split(value, "LO", keyword, little=True)
    if isinstance(value, str):
        return [part for part in value.split("\\") if part.strip(" \0")]
    if value is None:
        return []
    if hasattr(value, "__iter__"):
        return [part for part in value if part is not None and part != ""]
    return [value]


def _expected(tag: int, implicit: bool, value: bytes) -> str:
    vr = dictionary_VR(tag).split(" or ")[0]
    return vr if implicit or vr not in BINARY or len(value) % struct.calcsize(BINARY[vr]) == 0 else "LO"


def _split(value: bytes, vr: str, keyword: str, *, little: bool) -> list[object]:
    code = BINARY.get(vr)
    if code is not None and value and len(value) % struct.calcsize(code) == 0:
        count = len(value) // struct.calcsize(code)
        if count > MOST_VALUES:
            raise not_understood(keyword, f"has more than {MOST_VALUES} values")
        return list(struct.unpack(f"{'<' if little else '>'}{count}{code}", value))
    if len(value) > 16_384:
        raise not_understood(keyword, "is longer than any number or word")
    text = value.decode("ascii", "replace").replace("\0", " ")
    return [part for part in text.split("\\") if part.strip()]
