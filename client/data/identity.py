"""When two texts name the same patient or study: one rule for files, label files, imports, queries and merges.

    insignificant   spaces, tabs, line breaks, NULs and byte order marks at either end (PS3.5, 6.2); Unicode composition (NFC)
    significant     everything else: case, inner spaces, leading zeros, punctuation

Identifiers are never converted to numbers: ``0077`` and ``77`` may be two patients. Who issued an identifier
(IssuerOfPatientID) does not distinguish patients: the same identifier of two issuers is one patient here, since two
patients counted as one share a privacy budget, while one patient counted as two would have it twice.
"""

import unicodedata

PADDING = "\0\ufeff\u200b"  # beside white space: NULs of fixed-length fields, byte order marks, spaces without width


def normalised(text: str) -> str:
    """Return an identifier without what is insignificant; the same text for a text that was returned before."""
    while True:  # composing may move a space to an end, and stripping may change what is composed
        stripped = unicodedata.normalize("NFC", text)
        start, end = 0, len(stripped)
        while start < end and _is_padding(stripped[start]):
            start += 1
        while end > start and _is_padding(stripped[end - 1]):
            end -= 1
        stripped = stripped[start:end]
        if stripped == text:
            return text
        text = stripped


def same_issuer(text: str) -> str:
    """Return who issued an identifier (IssuerOfPatientID) without case and repeated spaces, which devices write differently."""
    return " ".join(normalised(text).casefold().split())


def _is_padding(character: str) -> bool:
    return character in PADDING or character.isspace()


def without_leading_zeros(identifier: str) -> str:
    """Return an identifier as a spreadsheet shows it: without leading zeros if it consists of digits only."""
    return (identifier.lstrip("0") or "0") if identifier.isascii() and identifier.isdigit() else identifier
