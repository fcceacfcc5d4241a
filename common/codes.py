"""Coded names of a job's classes, as DICOM objects need them (PS3.3, 8.8: scheme, value, meaning)."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from salus.common.job_statistics import Label
from salus.common.strict import Strict

CODE = re.compile(r"^([A-Z0-9_]{1,16}):([A-Za-z0-9._-]{1,16}):([^\x00-\x1f\x7f-\x9f\\]{1,64})\Z")


class Code(Strict):
    """One coded concept.

    Args:
        scheme: coding scheme designator, such as ``SCT`` for SNOMED CT, ``DCM`` or ``99SALUS``.
        value: the code's value in that scheme.
        meaning: text for readers.
    """

    scheme: Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")]
    value: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]


def _checked(text: object) -> object:
    if isinstance(text, str) and not CODE.match(text):
        raise ValueError('expected a code such as "SCT:10200004:Liver": scheme, value and meaning')
    return text


CodeText = Annotated[str, BeforeValidator(_checked)]


def code_of(text: str) -> Code:
    """Return the code of a checked text ``scheme:value:meaning``."""
    scheme, value, meaning = text.split(":", 2)
    return Code(scheme=scheme, value=value, meaning=meaning)


class ClassCode(Strict):
    """The code of one class or structure; a class without an entry gets a code by its name.

    Args:
        of: Class name, as in `classes`.
        type: Code of what it is, as ``scheme:value:meaning``, such as ``SCT:10200004:Liver``.
        category: Code of the kind of thing that it is, such as ``SCT:91723000:Anatomical structure``; by default it is
            found from the type.
    """

    of: Label
    type: CodeText
    category: CodeText | None = None  # found from DICOM's own lists of types
