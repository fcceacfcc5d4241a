"""What a row of a DICOMweb list says (QIDO-RS, JSON of PS3.18 annex F); the server is not trusted, so each value is checked."""

import re
from collections.abc import Callable

from salus.client.data.incoming.paging import Row

UID = re.compile(r"^[0-9][0-9.]{0,63}\Z")
STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
OBJECTS, ADDRESS = "00201208", "00081190"  # NumberOfStudyRelatedInstances, RetrieveURL


def text_of(row: Row, tag: str) -> str:
    """Return the first value of an element as a text, or an empty string if there is none."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    if isinstance(value, dict):  # a person's name
        value = value.get("Alphabetic", "")
    return value if isinstance(value, str) else ""


def uid_of(row: Row, tag: str) -> str:
    """Return a UID of a row, or an empty string if there is no valid one."""
    value = text_of(row, tag)
    return value if UID.match(value) else ""


def key_of(*tags: str) -> Callable[[Row], tuple[str, ...] | None]:
    """Return what names a row: its valid UIDs at these tags, or None if it has none."""

    def key(row: Row) -> tuple[str, ...] | None:
        uids = tuple(uid_of(row, tag) for tag in tags)
        return uids if any(uids) else None

    return key


def count_of(row: Row) -> int | None:
    """Return how many objects a study has, as the server states it, or None if it does not."""
    element = row.get(OBJECTS)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else None
    if isinstance(value, str) and re.fullmatch(r" *[0-9]{1,9} *", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def series_of_address(row: Row) -> str:
    """Return the series UID of a row's own address, for servers that repeat it only there; empty if there is none."""
    found = re.search(r"/series/([0-9.]{1,64})/", text_of(row, ADDRESS)[:2000])
    return found[1] if found and UID.match(found[1]) else ""
