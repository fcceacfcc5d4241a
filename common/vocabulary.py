"""Words that may be kept from free text in a header: vendors and modalities from fixed lists, everything else is ``OTHER``."""

import difflib
import re
from collections.abc import Iterable

VENDORS = (
    "GE",
    "SIEMENS",
    "PHILIPS",
    "CANON",
    "TOSHIBA",
    "FUJI",
    "HOLOGIC",
    "AGFA",
    "CARESTREAM",
    "HITACHI",
    "SHIMADZU",
    "PHANTOMA",  # the vendors of the phantoms that come with Salus
    "PHANTOMB",
    "PHANTOMC",
    "PHANTOMD",
    "PHANTOME",
)
MODALITIES = frozenset(
    {"CT", "MR", "CR", "DX", "MG", "PT", "NM", "RF", "XA", "OP", "OPT", "US", "SC", "OT", "IO", "PX"}
)
OTHER = "OTHER"
WORDS = {"GE": r"GE(MS)?\b"}  # two letters begin many words


def vendor_of(text: object) -> str:
    """Return the vendor in a header's free text, at the beginning of a word, or ``OTHER``."""
    upper = str(text or "").upper()
    return next((vendor for vendor in VENDORS if re.search(rf"\b{WORDS.get(vendor, vendor)}", upper)), OTHER)


def modality_of(text: object) -> str:
    """Return a header's modality, or ``OTHER`` for one that is not listed."""
    upper = str(text or "").strip().upper()
    return upper if upper in MODALITIES else OTHER


def check_words(words: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise ValueError, with the nearest known word, for a word that no image can have.

    A job that named one would find no image at any site, and say nothing.
    """
    allowed = sorted(known)
    for word in words:
        if word not in allowed:
            near = difflib.get_close_matches(word.upper(), allowed, n=1, cutoff=0.0)
            raise ValueError(f"expected {what} among {', '.join(allowed)}; got {word!r}, did you mean {near[0]!r}?")
