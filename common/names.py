"""Names that people give to hospitals, coordinators and consortia, and text from other parties made safe to print.

A name is shown beside a key fingerprint, so it must not be able to change the text around it on a screen.
"""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_NAME = 80
MARKS = frozenset(" .,'’-–&+")  # no brackets (console markup), no quotes, no slashes, no backslash
MOST_ACCENTS = 2  # in a row; more stacked accents would overlap other lines
# Characters that Unicode calls printable but that are drawn as nothing: fillers, joiners, variation selectors.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | frozenset(map(chr, range(0x180B, 0x1810)))
INVISIBLE |= frozenset(map(chr, range(0xFE00, 0xFE10))) | frozenset(map(chr, range(0xE0100, 0xE01F0)))


def check_name(name: str) -> str:
    """Return `name` if it may be printed unchanged.

    Guarantees: letters of any script, digits, spaces inside and ``.,'’-–&+`` only; NFC; at most 80 characters; no control,
    bidirectional, zero-width or invisible character. Letters that look alike in two scripts are not distinguished: compare
    fingerprints.

    Raises:
        ValueError: any other name; the message shows the character as a code point.
    """
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"expected a name of 1 to {MAX_NAME} characters, got {len(name)}")
    if unicodedata.normalize("NFC", name) != name:
        raise ValueError("expected a name in Unicode normal form NFC; type it again instead of copying it")
    accents = 0
    for character in name:
        category = unicodedata.category(character)
        accents = accents + 1 if category in ("Mn", "Mc") else 0
        allowed = character in MARKS or category in ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd")
        if not allowed or character in INVISIBLE or accents > MOST_ACCENTS:
            raise ValueError(
                f"expected letters, digits, spaces and .,'-&+ in a name, got the character U+{ord(character):04X}"
            )
    if unicodedata.category(name[0]) not in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd") or name[-1] == " " or "  " in name:
        raise ValueError(
            "expected a name that begins with a letter or digit and has only single spaces, inside the name"
        )
    return name


def same_name(one: str, other: str) -> bool:
    """Return whether two names count as equal, ignoring case and Unicode compatibility forms."""
    return name_key(one) == name_key(other)


def name_key(name: str) -> str:
    """Return the form in which names are compared."""
    return unicodedata.normalize("NFKC", name).casefold()


DisplayName = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(check_name)]


def visible(text: str, *, keep: str = "") -> str:
    """Return `text` with every control or invisible character replaced by an ASCII escape.

    Args:
        keep: control characters that are kept, such as a newline.

    >>> visible("a" + chr(27) + "]52;c;x" + chr(7))
    'a\\\\x1b]52;c;x\\\\x07'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or _harmless(c) else _code(c) for c in text)


def _harmless(character: str) -> bool:
    """Return whether the character is no control, format (bidirectional, zero-width), private, unassigned or separator one."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _code(character: str) -> str:
    value = ord(character)
    if value < 0x100:
        return f"\\x{value:02x}"
    return f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"
