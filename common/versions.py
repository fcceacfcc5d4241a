"""Versions of what is kept and exchanged: one check and one message for all of it.

A format's number is raised only when older versions of Salus could misunderstand what a newer one writes. A key that is added
with a default does not need a new number: a newer Salus reads an older document as it was meant, and an older one refuses an
unknown key, saying that it is itself too old.
"""

import re
from collections.abc import Mapping

from salus import __version__
from salus.common.errors import LinkError, Outdated, SalusError

PROTOCOL = 2  # of the requests and replies between coordinator and site; raised when either side must change
OLDEST_PROTOCOL = 1  # that this Salus still speaks, so that coordinator and sites need not be upgraded on the same day
PACKET_FORMAT = 1  # of the header inside a request or reply (`common/packets.py`)
MODEL_FORMAT = 1  # of model files; the key ``format`` of their metadata states it
LARGEST_SHOWN = 999_999  # a number of thousands of digits cannot be turned into text
PROTOCOL_HEADER = "salus-protocol"
OLDEST_HEADER = "salus-protocol-oldest"
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


def check_protocol(stated: str, oldest: str = "", *, other: str, me: str) -> int:
    """Return the newest protocol version that both sides of a connection speak.

    Args:
        stated: the other side's newest version as decimal text; empty if it states none, as versions of Salus before 1 did.
        oldest: the oldest version that it still speaks; empty if it speaks one version only.
        other, me: the two sides, such as ``the coordinator`` and ``this site``.

    Raises:
        LinkError: there is no such version; the message says which side is too old.
        Outdated: this side is.
    """
    newest_theirs = _version(stated)
    oldest_theirs = _version(oldest) or newest_theirs
    agreed = min(newest_theirs, PROTOCOL)
    if agreed >= max(OLDEST_PROTOCOL, oldest_theirs):
        return agreed
    too_old = other if newest_theirs < OLDEST_PROTOCOL else me
    spoken = f"{OLDEST_PROTOCOL} to {PROTOCOL}" if OLDEST_PROTOCOL < PROTOCOL else str(PROTOCOL)
    kind = Outdated if too_old == me else LinkError
    raise kind(
        f"Expected protocol version {spoken} of {other}, as {me} (Salus {__version__}) speaks it, got "
        f"{newest_theirs or 'no version'}: {too_old} is too old.",
        remedy=f"Install the newest version of Salus at {too_old.removeprefix('the ')}.",
    )


def _version(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0
