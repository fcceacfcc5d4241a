"""Adds up a scan: every file that was found is part of a sample, or is named with a reason."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources.accompanying import BY_INTENTION, PART_OF_REFUSED, SET_ASIDE, why_unused
from salus.client.data.sources.base import files_of
from salus.common.errors import UnreadableImage

Item = ImageRecord | Quarantined
PAGE = 500  # names per request


class Account:
    """Which files of a scan are accounted for; it holds the names of those that are not yet, and of masks and the like.

    Args:
        labels: the label file that the operator named; empty if none was.
    """

    def __init__(self, labels: str = "") -> None:
        self._labels = labels
        self._open: dict[str, None] = {}  # in the order of the scan
        self._parts: set[str] = set()  # of samples, beside the file that was examined
        self._refused: list[Quarantined] = []

    def refuse(self, name: str, reason: str, detail: str) -> None:
        """Take note of an entry that is not a readable file."""
        shown = name.encode("utf-8", "backslashreplace").decode()
        self._refused.append(Quarantined(shown or "(the data folder)", reason, detail))

    def refusals(self) -> Iterator[Item]:
        """Yield what was refused since the last call."""
        yield from self._refused
        self._refused.clear()

    def unwanted(self, names: Sequence[str], wanted: Sequence[str]) -> None:
        """Take note of the files that the reader does not examine by themselves; they may be parts of samples."""
        taken = set(wanted)
        self._open.update(dict.fromkeys(name for name in names if name not in taken))

    def of(self, names: Sequence[str], found: Iterable[Item]) -> Iterator[Item]:
        """Yield what the examination of these files found, and take note of the files of which it says nothing."""
        left = dict.fromkeys(names)
        try:
            for item in found:
                if len(names) == 1:
                    left.clear()  # rows and boxes have keys within their file
                for name in files_of(item.key):
                    if name in left:
                        del left[name]
                    elif len(names) == 1 and name != names[0]:
                        self._parts.add(name)
                yield item
        except UnreadableImage as problem:
            for name in left or (names if len(names) == 1 else ()):
                yield Quarantined(name, problem.reason, problem.detail)
            return
        self._open.update(left)

    def unused(self, parts_of: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Item]:
        """Yield the files that no sample has, once the scan is over.

        Args:
            parts_of: returns those files that the reader knows as parts of samples, used or refused.
        """
        left = [name for name in self._open if name not in self._parts]
        for first in range(0, len(left), PAGE):
            page = left[first : first + PAGE]
            known = set(parts_of(page))
            for name in page:
                if name == self._labels:
                    yield Quarantined(name, SET_ASIDE, BY_INTENTION)
                else:
                    yield Quarantined(name, *(PART_OF_REFUSED if name in known else why_unused(name)))
