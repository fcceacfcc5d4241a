"""Codes for classes: those that the job gives, else DICOM's own code for a structure of this name, else a private code.

DICOM lists the types of segmented properties by category in PS3.16, CID 7191 to 7194 and 7197; pydicom carries the lists.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from salus.common.codes import ClassCode, Code, code_of

PRIVATE = "99SALUS"
TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")  # the most general category
CATEGORIES = {
    "CID7192": Code(scheme="SCT", value="91723000", meaning="Anatomical structure"),
    "CID7194": Code(scheme="SCT", value="49755003", meaning="Morphologically abnormal structure"),
    "CID7191": TISSUE,
    "CID7197": Code(scheme="SCT", value="91720002", meaning="Body substance"),
}
ALIASES = {"tumour": "neoplasm", "tumor": "neoplasm"}


@dataclass(frozen=True)
class Coded:
    """A class with its codes.

    Args:
        name: as in the job.
    """

    name: str
    type: Code
    category: Code


def coded(names: Sequence[str], given: Sequence[ClassCode] = ()) -> tuple[Coded, ...]:
    """Return the codes of these classes, in their order.

    Args:
        given: the job's own codes; they come first.

    A class that neither the job nor DICOM's lists name gets the private scheme `PRIVATE` and the category "tissue".
    """
    own = {entry.of: entry for entry in given}
    return tuple(_coded(name, own.get(name)) for name in names)


def _coded(name: str, own: ClassCode | None) -> Coded:
    if own is None:
        kind, category = _known().get(_plain(ALIASES.get(name.lower(), name)), (_private(name), TISSUE))
        return Coded(name, kind, category)
    kind = code_of(own.type)
    if own.category is not None:
        return Coded(name, kind, code_of(own.category))
    found = (place for code, place in _known().values() if (code.scheme, code.value) == (kind.scheme, kind.value))
    return Coded(name, kind, next(found, TISSUE))


@functools.cache
def _known() -> dict[str, tuple[Code, Code]]:
    """Return DICOM's types of segmented properties by their plain names, each with its category."""
    from pydicom.sr.codedict import codes

    found: dict[str, tuple[Code, Code]] = {}
    for group, category in CATEGORIES.items():
        listed = getattr(codes, group)
        for name in listed.dir():
            code = getattr(listed, name)
            if code.scheme_designator == "SCT" and len(code.meaning) <= 64:
                kind = Code(scheme="SCT", value=code.value, meaning=code.meaning)
                found.setdefault(_plain(name), (kind, category))
    return found


def _private(name: str) -> Code:
    """Return a code made from a name; it has the same value in every job and at every site."""
    # Only names that no other name can be mistaken for are readable codes.
    readable = re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", name) and len(name) <= 16
    value = name.upper().replace(" ", "_") if readable else "C" + hashlib.sha256(name.encode()).hexdigest()[:15].upper()
    return Code(scheme=PRIVATE, value=value, meaning=dicom_text(name) or "class")


def dicom_text(name: str) -> str:
    """Return a name as DICOM's long string (PS3.5, 6.2): a backslash would divide it into two values."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\\]", " ", name).strip()[:64].rstrip()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
