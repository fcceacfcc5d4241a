"""Whole lists from a DICOMweb server (QIDO-RS), which sends them in pages of a size that it chooses itself.

PS3.18 section 8.3.4.4: a server may send fewer rows than the limit that was asked for. So a list ends with an empty page, and not
with a page that is shorter than our limit. Some servers ignore `offset` and send their first page forever; others ignore `limit`
too and send the whole list at once. In the first case a part of the list cannot be reached, and the caller is told.
"""

import contextlib
import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from salus.common.errors import LinkError

PAGE = 100  # rows; small enough for servers that build a page in memory
MAX_ROWS = 1_000_000
FAR = 100_000_000  # an offset behind the end of every list
MANY = 1_000_000  # a limit above the length of every list
# The text of the warning is the server's own; other warnings 299 say that fuzzy matching is not supported.
MORE = re.compile(r"\b299\b.*\b(more|additional|remaining)\b", re.IGNORECASE)
Row = Mapping[str, object]


@dataclass(frozen=True)
class Page:
    """One answer of a server.

    Args:
        rows: its rows.
        more: whether the server itself says that there are more.
    """

    rows: list[Row]
    more: bool = False


@dataclass(frozen=True)
class Listing:
    """A list, without repetitions.

    Args:
        rows: in the order of the server.
        complete: False if the server has more rows than it returns, or may have.
    """

    rows: list[Row]
    complete: bool


Ask = Callable[[Mapping[str, str]], Page]


class _Rows:
    """Rows by key, in order, each once."""

    def __init__(self, key: Callable[[Row], Hashable]) -> None:
        self._key = key
        self.found: dict[Hashable, Row] = {}
        self.sent = 0

    def add(self, page: Page) -> int:
        """Take a page and return how many of its rows are new."""
        before, nameless = len(self.found), 0
        for row in page.rows:
            key = self._key(row)
            if key is None:  # two rows without identifiers are two rows
                key, nameless = ("", json.dumps(row, sort_keys=True, default=str), nameless), nameless + 1
            self.found.setdefault(key, row)
        self.sent += len(page.rows)
        if self.sent > MAX_ROWS:
            raise LinkError("The PACS answered the query with too many entries.", remedy="Narrow --query.")
        return len(self.found) - before

    def listing(self, *, complete: bool) -> Listing:
        return Listing(list(self.found.values()), complete)


def whole_list(ask: Ask, key: Callable[[Row], Hashable], total: int | None = None) -> Listing:
    """Return all rows that a server returns.

    Args:
        ask: sends a query with these paging parameters.
        key: what makes two rows the same; None for a row without an identifier.
        total: number of rows as the server itself states it elsewhere; saves the request for the empty page where both agree.

    Guarantees: ends for every server, after at most `MAX_ROWS` rows; a list that may be cut is not reported as complete.

    Raises:
        LinkError: the server cannot be reached, sends an unexpected answer, or never ends.
    """
    rows, more, counted = _Rows(key), False, False
    while True:
        page = ask({"limit": str(PAGE), "offset": str(rows.sent)})
        if not page.rows:
            return rows.listing(complete=not (more or page.more))
        new, more = rows.add(page), page.more
        if total is not None and len(rows.found) == total and len(page.rows) < PAGE and not more:
            return rows.listing(complete=True)
        if new or counted:
            continue
        if ask({"limit": str(PAGE), "offset": str(FAR)}).rows:
            return _without_offset(ask, rows, total)
        counted = True  # it counts as we do, and sent a row twice


def _without_offset(ask: Ask, rows: _Rows, total: int | None) -> Listing:
    """Get all that a server returns if it ignores `offset`, and find out whether that is the whole list."""
    more = True
    for paging in ({"limit": str(MANY)}, {}):
        with contextlib.suppress(LinkError):  # some reject a limit above their own, and some need one
            page = ask(paging)
            rows.add(page)
            more = more and page.more
    found = len(rows.found)
    if more or (total is not None and found < total):
        return rows.listing(complete=False)
    if total is not None or found < 2:
        return rows.listing(complete=True)
    shorter = ask({"limit": str(found - 1)})
    # All rows again: it has no pages, and always sends the whole list. Otherwise its silence above means something only if it
    # says now that there are more.
    return rows.listing(complete=len(shorter.rows) >= found or shorter.more)
