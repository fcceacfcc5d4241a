"""What an operator asks a PACS for: attributes and their values, in a URL and compared with what the PACS finds."""

import fnmatch
import re
from collections.abc import Mapping
from urllib.parse import quote

from pydicom.datadict import tag_for_keyword

from salus.client.data.identity import normalised
from salus.client.data.incoming.paging import Row
from salus.client.data.incoming.rows import text_of
from salus.common.errors import DataError

SAFE = "*?/:@,;!$'()"  # besides letters, digits and -._~; RFC 3986 allows them in a query, and Orthanc decodes nothing
ESCAPED = re.compile(rf"[^A-Za-z0-9\-._~{re.escape(SAFE)}]")


def parse_query(text: str) -> dict[str, str]:
    """Return ``{"Modality": "CT"}`` of ``Modality=CT,StudyDate=20200101-``; raises DataError for anything else."""
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or not re.fullmatch(r"[A-Za-z0-9]{1,64}", pair[0].strip()) for pair in pairs):
        raise DataError("Expected a query like Modality=CT,StudyDate=20200101-20201231.", remedy="Correct --query.")
    return {name.strip(): normalised(value) for name, value in pairs}


def arguments(query: Mapping[str, str]) -> str:
    """Return the part of a URL behind its path."""
    return "?" * bool(query) + "&".join(f"{quote(name)}={quote(value, safe=SAFE)}" for name, value in query.items())


def loosened(value: str) -> str:
    """Return a value with a wildcard for each character that a URL cannot hold: it finds the same, and perhaps more."""
    return ESCAPED.sub("?", value)


def fits(row: Row, query: Mapping[str, str]) -> bool:
    """Return whether a study has the texts that a query asks for; True for attributes that the row does not repeat."""
    for name, value in query.items():
        tag = name if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else f"{tag_for_keyword(name) or 0:08X}"
        text = text_of(row, tag.upper())
        if (
            text
            and ESCAPED.search(value)
            and not fnmatch.fnmatchcase(_folded(text), _folded(value).replace("[", "[[]"))
        ):
            return False
    return True


def _folded(text: str) -> str:
    return normalised(text).casefold()
