"""A source whose files are decoded in this process's sandboxed child process, see `isolation` and `decoder_reading`."""

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.channel import Buffer
from salus.client.data.dicom.isolation import Decoding, shared_child
from salus.client.data.dicom.messages import MAX_FILE_BYTES, Answer, Done, Found, Loaded, Names, Page, Question
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.account import PAGE
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.opened import Item, Opened
from salus.client.data.targets import Target, checked
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

ROLE = "salus.client.data.dicom.reading:Reading"
NOT_OPEN = "not-open"  # the child keeps few sources open at a time
MAX_PUSHED_BYTES = 2**24
MAX_FOUND = 20_000_000  # in one file; a table has a row of a few bytes for each
_numbers = itertools.count(1)
A = TypeVar("A", bound=Answer)


class Remote(Opened):
    """A source in the child.

    Args:
        reader: ``module:class`` of the `Reader`.
        decoding: limits and layers of the child.

    Raises:
        DataError: options or a label file that cannot be used.
        ConfigError: a child cannot be sandboxed on this machine.
    """

    def __init__(self, reader: str, files: LocalFiles, options: Strict, decoding: Decoding) -> None:
        super().__init__(files)
        self._child = shared_child(ROLE, json.dumps({"reader": reader}), decoding)
        self._number, self._options, self._served = next(_numbers), options, _Served(files)
        self._incarnation = self._opened = 0
        with self._child.lock:
            self._child.start()
            self._open()

    def _open(self) -> None:
        self._child.ask(
            "open", Done, json.dumps([self._number]), self._options.model_dump_json().encode(), self._served
        )
        self._incarnation = self._child.incarnation
        self._opened += 1

    def _asked(self, name: str, kind: type[A], *arguments: object, data: Buffer = b"") -> tuple[A, memoryview]:
        with self._child.lock:  # so that no other thread's file stops the child in between
            self._child.start()
            if self._incarnation != self._child.incarnation:
                self._open()
            argument = json.dumps([self._number, *arguments])
            ask = functools.partial(self._child.ask, name, kind, argument, data, self._served)
            try:
                return ask()
            except UnreadableImage as problem:
                if problem.reason != NOT_OPEN:
                    raise
                self._open()
                return ask()

    def _wanted(self, names: Sequence[str]) -> Sequence[str]:
        wanted = set(self._asked("wanted", Names, list(names))[0].names)
        return [name for name in names if name in wanted]

    def _parts(self, names: Sequence[str]) -> Sequence[str]:
        return self._asked("parts", Names, list(names))[0].names

    def everything(self) -> Iterator[Item]:
        """Yield what `Opened.everything` does."""
        self._opened = 0
        return super().everything()

    def _unmatched(self) -> Iterator[Item]:
        # A reader that was opened again in the middle, because a file killed its process, has forgotten which rows were used.
        count, page = 0, Page(more=True)
        while page.more and not self._opened and count < MAX_FOUND:
            page = self._asked("unmatched", Page, count)[0]
            count += len(page.found)
            yield from (_record(found) for found in page.found if not self._opened)

    def _first_look(self, name: str) -> str | Iterable[Item]:
        page, _ = self._asked("look", Page, name, data=self._pushed(name))
        return page.group or self._pages([name], page)

    def _examined(self, names: Sequence[str]) -> Iterable[Item]:
        return self._pages(names, self._asked("examine", Page, list(names), 0)[0])

    def _pushed(self, name: str) -> bytes:
        """Return a file that the child is about to request, which saves a round trip; empty if that is not worthwhile."""
        try:
            return self._files.read(name) if self._files.size(name) <= MAX_PUSHED_BYTES else b""
        except UnreadableImage:
            return b""  # the key is not a file's name, or the file is gone: the reader reports it

    def _pages(self, names: Sequence[str], page: Page) -> Iterator[Item]:
        count = 0
        while True:
            count += len(page.found)
            yield from (_record(found) for found in page.found)
            if not page.more or not page.found or count > MAX_FOUND:
                return
            page, _ = self._asked("examine", Page, list(names), count)

    def load(self, key: str) -> Sample:
        """Return the sample of `key`; raises UnreadableImage as the reader, and ``too-slow`` or ``crashed``."""
        loaded, body = self._asked("load", Loaded, key, data=self._pushed(key))
        values = np.frombuffer(body, np.float32, loaded.count).reshape(loaded.shape)
        measured = None
        if loaded.measured is not None:
            place = 4 * loaded.count
            measured = np.frombuffer(body, np.float32, loaded.measured_count, place).reshape(loaded.measured)
        # A table's missing values are NaN; an image has none, whatever the decoder says.
        if not loaded.columns and not (np.isfinite(values).all() and (measured is None or np.isfinite(measured).all())):
            raise UnreadableImage("not-finite", "the sample contains NaN or infinite values")
        return Sample(
            values,
            loaded.spacing_mm,
            loaded.columns,
            loaded.sha256,
            measured,
            loaded.pixel_sha256,
            affine=_affine(loaded),
            targets=_targets(loaded, body),
            kinds={target.name: target.kind for target in loaded.targets},
            names={target.name: target.names for target in loaded.targets if target.names},
            axes=loaded.axes,
            padding=_padding(loaded, body),
        )


class _Served:
    """Answers the child's questions about the files."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files
        self._listing: tuple[str, int, Iterator[str]] = ("", -1, iter(()))

    def __call__(self, question: Question) -> Buffer:
        if question.what == "names":
            return json.dumps(self._names(question.name, question.offset)).encode()
        if question.what == "size":
            return str(self._files.size(question.name)).encode()
        return self._files.read(question.name, question.offset, min(question.length, MAX_FILE_BYTES) or None)

    def _names(self, below: str, offset: int) -> list[str]:
        """Return a page of names from the offset on; consecutive pages share one listing."""
        where, at, names = self._listing
        if (where, at) != (below, offset):
            names = itertools.islice(self._files.names(below), offset, None)
        page = list(itertools.islice(names, PAGE))
        self._listing = (below, offset + len(page), names)
        return page


def _padding(loaded: Loaded, body: memoryview) -> npt.NDArray[np.bool_] | None:
    """Return which values are padding; whatever bits the child sends, each says it of one value."""
    if not loaded.padding:
        return None
    bits = np.frombuffer(body, np.uint8, loaded.padding_end - loaded.padding_place, loaded.padding_place)
    return np.unpackbits(bits, count=loaded.count).astype(np.bool_).reshape(loaded.shape)


def _affine(loaded: Loaded) -> npt.NDArray[np.float64] | None:
    """Return the affine; raises UnreadableImage for one that does not map a grid."""
    if loaded.affine is None:
        return None
    affine = np.array(loaded.affine, np.float64).reshape(4, 4)
    with np.errstate(all="ignore"):
        volume = abs(float(np.linalg.det(affine)))
    if not (affine[3] == (0, 0, 0, 1)).all() or not 0 < volume < np.inf:
        raise UnreadableImage("bad-geometry", "the sample's position in the patient is not valid")
    return affine


def _targets(loaded: Loaded, body: memoryview) -> dict[str, npt.NDArray[Any]]:
    """Return the annotations, each of the form of its kind; the child is not trusted."""
    found: dict[str, npt.NDArray[Any]] = {}
    for target, place in loaded.target_places():
        count = math.prod(target.shape)
        values = np.frombuffer(body, np.dtype(target.dtype), count, place)
        values = np.require(values.reshape(target.shape), requirements="A")
        found[target.name] = checked(target.kind, values, loaded.shape, target.names, target.name)
    return found


def _record(found: Found) -> Item:
    if found.reason:
        return Quarantined(found.key, found.reason, found.detail)
    plain = {name: value for name, value in found if name not in ("reason", "detail", "targets")}
    targets = {name: Target(target.kind, target.amounts, target.outside) for name, target in found.targets.items()}
    return ImageRecord(**plain, targets=targets)
