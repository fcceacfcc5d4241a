"""Versions of what is kept and exchanged: one check and one message for all of it.

A format's number is raised only when older versions of Salus could misunderstand what a newer one writes. A key that is added
with a default does not need a new number: a newer Salus reads an older document as it was meant, and an older one refuses an
unknown key, saying that it is itself too old.
"""

import re
from collections.abc import Mapping

from salus import __version__
from salus.common.errors import LinkError, SalusError

PROTOCOL = 1  # of the requests and replies between coordinator and site; raised when either side must change
MODEL_FORMAT = 1  # of model files; the key ``format`` of their metadata states it
LARGEST_SHOWN = 999_999  # a number of thousands of digits cannot be turned into text
PROTOCOL_HEADER = "salus-protocol"
UPGRADE = "Install the newest version of Salus on the machine that refused it."


def check_format(found: object, newest: int, *, what: str, error: type[SalusError]) -> None:
    """Check the format version that a document states.

    Args:
        found: the version in the document; None if it states none.
        newest: the newest version that this Salus reads; it reads all from 1.

    Raises:
        error: a newer version, or none; the message says which side is too old.
    """
    if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= newest:
        return
    if isinstance(found, int) and not isinstance(found, bool) and found > newest:
        stated = str(found) if found <= LARGEST_SHOWN else f"above {LARGEST_SHOWN}"
        raise error(
            f"The {what} has format {stated}, but Salus {__version__}, which reads it, knows formats up to {newest}: "
            "the reading side is too old.",
            remedy=UPGRADE,
        )
    raise error(
        f"The {what} does not state a format that Salus {__version__} can read (1 to {newest}): "
        "it is damaged, or the side that wrote it is too old.",
        remedy="Install the newest version of Salus on the machine that wrote it, and have it written again.",
    )


def check_model_format(
    metadata: Mapping[str, str] | None, file: str, *, error: type[SalusError], must_state: bool = True
) -> None:
    """Check the format that the metadata of a model file states; errors as in `check_format`.

    Args:
        must_state: whether a file without a number is refused. Other programs write none, or the name of their library.
    """
    stated = str((metadata or {}).get("format", ""))
    number = int(stated) if re.fullmatch(r"[0-9]{1,6}", stated) else None
    if number is None and not must_state:
        return
    check_format(number, MODEL_FORMAT, what=f"model file {file!r}", error=error)


def check_protocol(stated: str, *, other: str, me: str) -> None:
    """Check the protocol version that the other side of a connection states.

    Args:
        stated: its version as decimal text; empty if it states none, as versions of Salus before 1 did.
        other, me: the two sides, such as ``the coordinator`` and ``this site``.

    Raises:
        LinkError: another version; the message says which side is too old.
    """
    theirs = int(stated) if re.fullmatch(r"[0-9]{1,6}", stated) else 0
    if theirs == PROTOCOL:
        return
    too_old = other if theirs < PROTOCOL else me
    raise LinkError(
        f"Expected protocol version {PROTOCOL} of {other}, as {me} (Salus {__version__}) speaks it, got "
        f"{theirs or 'no version'}: {too_old} is too old.",
        remedy=f"Install the newest version of Salus at {too_old.removeprefix('the ')}.",
    )
