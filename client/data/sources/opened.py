"""A source over some files: how a scan goes through them, wherever they are decoded."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.accompanying import NOT_REFUSED
from salus.client.data.sources.account import PAGE, Account
from salus.client.data.sources.base import Reader, Stamp, files_of, parts_of, unmatched_of
from salus.client.data.sources.local import LocalFiles
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

Item = ImageRecord | Quarantined


class Opened(ABC):
    """A `Source`; what is abstract may happen in another process.

    Guarantees: a file that cannot be read costs that file, or the samples it is part of, and nothing else.
    """

    def __init__(self, files: LocalFiles) -> None:
        self._files = files

    @abstractmethod
    def _wanted(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of the files that may contain samples."""

    @abstractmethod
    def _parts(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of the files that the reader knows as parts of samples, see `Parted`."""

    @abstractmethod
    def _unmatched(self) -> Iterable[Item]:
        """Return the rows of the label file that no image of this scan has; nothing if that is not known."""

    @abstractmethod
    def _first_look(self, name: str) -> str | Iterable[Item]:
        """Return a file's contents, or the group with which it must be examined."""

    @abstractmethod
    def _examined(self, names: Sequence[str]) -> Iterable[Item]:
        """Return the contents of a group's files."""

    @abstractmethod
    def load(self, key: str) -> Sample:
        """Return the sample of `key`, see `Source`."""

    def scan(self) -> Iterator[Item]:
        """Yield every sample and every file that cannot be used."""
        return (
            item for item in self.everything() if not (isinstance(item, Quarantined) and item.reason in NOT_REFUSED)
        )

    def everything(self) -> Iterator[Item]:
        """Yield every sample, every file that cannot be used, and what was set aside (`NOT_REFUSED`).

        Guarantees: each file below the root is part of a sample, or is named once with the reason why it is not.
        """
        count, groups = Account(self._files.named_labels), dict[str, list[str]]()
        for page in _pages(self._files.every(count.refuse)):
            good = [name for name in page if _is_text(name)]
            for name in page:
                if not _is_text(name):
                    yield Quarantined(_escaped(name), "bad-name", "the file's name is not UTF-8 text; rename it")
            wanted = self._wanted([name for name in good if name != self._files.named_labels])
            count.unwanted(good, wanted)
            for name in wanted:
                try:
                    found = self._first_look(name)
                    if isinstance(found, str):
                        groups.setdefault(found, []).append(name)
                    else:
                        yield from count.of([name], found)
                except UnreadableImage as problem:
                    yield Quarantined(name, problem.reason, problem.detail)
            yield from count.refusals()
        for names in groups.values():
            yield from count.of(names, self._each(names))
        yield from count.refusals()
        yield from count.unused(self._parts)
        yield from self._unmatched()

    def _each(self, names: Sequence[str]) -> Iterator[Item]:
        yield from self._examined(names)  # errors of the first step, too, are raised while the files are accounted for

    def stored(self, name: str) -> bytes:
        """Return the stored bytes of one of the files; raises UnreadableImage as `Files.read`."""
        return self._files.read(name)

    def stamp(self, key: str) -> Stamp | None:
        """Return the stamp of the files that `key` names; None where it names none."""
        return self._files.stamp(list(files_of(key)))


class Direct(Opened):
    """A source that decodes in this process: for trusted files, as in simulations."""

    def __init__(self, reader: type[Reader], files: LocalFiles, options: Strict) -> None:
        super().__init__(files)
        self._reader = reader(files, options)

    def _wanted(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if self._reader.wants(name)]

    def _parts(self, names: Sequence[str]) -> Sequence[str]:
        return parts_of(self._reader, names)

    def _unmatched(self) -> Iterable[Item]:
        return unmatched_of(self._reader)

    def _first_look(self, name: str) -> str | Iterable[Item]:
        return self._reader.group(name) or self._reader.examine([name])

    def _examined(self, names: Sequence[str]) -> Iterable[Item]:
        return self._reader.examine(names)

    def load(self, key: str) -> Sample:
        return self._reader.load(key)


def _pages(names: Iterator[str]) -> Iterator[list[str]]:
    while page := list(itertools.islice(names, PAGE)):
        yield page


def _is_text(name: str) -> bool:
    return name.isascii() or _escaped(name) == name


def _escaped(name: str) -> str:
    """Return a file name that can be stored and shown, whatever bytes it has."""
    return name.encode("utf-8", "backslashreplace").decode()
