"""What a data set holds, asked without parsing its elements: parsing takes most of the time of a small file."""

import functools

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset


def keywords_in(dataset: Dataset, keywords: tuple[str, ...]) -> list[str]:
    """Return which of these keywords a data set has, in their order."""
    present = set(map(int, dataset.keys()))
    return [keyword for keyword, tag in _tags(keywords) if tag in present]


@functools.cache
def _tags(keywords: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    return tuple((keyword, tag_for_keyword(keyword) or 0) for keyword in keywords)


def is_sequence(element: DataElement | RawDataElement) -> bool:
    """Return whether an element holds other elements, as its file or, in implicit VR, the dictionary says."""
    if element.VR is not None:
        return bool(element.VR == "SQ")
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:
        return False
