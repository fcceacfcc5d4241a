"""The child's role for a source: it runs the source's `Reader` on files that it requests from the parent."""

import importlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from salus.client.data.dicom.channel import Buffer
from salus.client.data.dicom.decoder_process import Ask
from salus.client.data.dicom.messages import (
    MAX_VALUES,
    Answer,
    Done,
    Found,
    FoundTarget,
    Loaded,
    LoadedTarget,
    Names,
    Operation,
    Page,
    Question,
)
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.base import Reader, parts_of, unmatched_of
from salus.client.data.sources.settings import settings_class
from salus.common.errors import UnreadableImage
from salus.common.examples import Array

MAX_OPEN = 2  # a source may hold gigabytes
PAGE = 1000  # records in one answer
Item = ImageRecord | Quarantined


class Reading:
    """The role.

    Args:
        settings: JSON with the reader's ``module:class``.
    """

    def __init__(self, settings: str, secret: bytes, ask: Ask) -> None:
        module, _, name = json.loads(settings)["reader"].partition(":")
        self._make: type[Reader] = getattr(importlib.import_module(module), name)
        self._make.prepare()
        self._files = RemoteFiles(ask)
        self._open: OrderedDict[int, Reader] = OrderedDict()
        self._pages = _Pages()
        self._operations: dict[str, Callable[..., tuple[Answer, Sequence[Buffer]]]] = {
            "wanted": self._wanted,
            "parts": self._parts,
            "unmatched": self._unmatched,
            "look": self._look,
            "examine": self._examine,
            "load": self._load,
        }

    def answer(self, operation: Operation, data: bytearray) -> tuple[Answer, Sequence[Buffer]]:
        """Do one operation on one of the open sources."""
        number, *arguments = json.loads(operation.argument)
        if operation.name == "open":
            self._open.pop(number, None)
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)
            self._pages = _Pages()
            self._open[number] = self._make(self._files, settings_class(self._make).model_validate_json(bytes(data)))
            return Done(), []
        if number not in self._open:
            raise UnreadableImage("not-open", "the source must be opened again")
        self._open.move_to_end(number)
        self._files.pushed = (str(arguments[0]), data) if data else None
        try:
            return self._operations[operation.name](self._open[number], *arguments)
        finally:
            self._files.pushed = None

    @staticmethod
    def _wanted(reader: Reader, names: list[str]) -> tuple[Answer, Sequence[Buffer]]:
        return Names(names=tuple(name for name in names if reader.wants(name))), []

    @staticmethod
    def _parts(reader: Reader, names: list[str]) -> tuple[Answer, Sequence[Buffer]]:
        return Names(names=tuple(parts_of(reader, names))), []

    @staticmethod
    def _unmatched(reader: Reader, start: int) -> tuple[Answer, Sequence[Buffer]]:
        found = list(itertools.islice(unmatched_of(reader), start, start + PAGE))
        return Page(found=tuple(map(_plain, found)), more=len(found) == PAGE), []

    def _look(self, reader: Reader, name: str) -> tuple[Answer, Sequence[Buffer]]:
        group = reader.group(name)
        return (Page(group=group), []) if group else self._examine(reader, [name], 0)

    def _examine(self, reader: Reader, names: list[str], start: int) -> tuple[Answer, Sequence[Buffer]]:
        found, more = self._pages.get(reader, names, start)
        return Page(found=tuple(_plain(item) for item in found), more=more), []

    @staticmethod
    def _load(reader: Reader, key: str) -> tuple[Answer, Sequence[Buffer]]:
        sample = reader.load(key)
        arrays = [sample.values, *([] if sample.intensities is None else [sample.intensities])]
        if any(array.size > MAX_VALUES for array in (*arrays, *sample.targets.values())):
            raise UnreadableImage("too-large", f"the sample has more than {MAX_VALUES} values")
        loaded = Loaded(
            shape=sample.values.shape,
            spacing_mm=tuple(float(side) for side in sample.spacing_mm),
            columns=tuple(sample.columns),
            sha256=sample.sha256,
            pixel_sha256=sample.pixel_sha256,
            measured=None if sample.intensities is None else sample.intensities.shape,
            affine=None if sample.affine is None else tuple(float(value) for value in sample.affine.reshape(-1)),
            axes=sample.axes,
            padding=sample.padding is not None,
            targets=tuple(_target(sample, name) for name in sample.targets),
        )
        body: list[Array] = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
        body += [] if sample.padding is None else [np.packbits(sample.padding.reshape(-1))]
        body += [np.ascontiguousarray(array) for array in sample.targets.values()]
        return loaded, [memoryview(array.tobytes() if array.size == 0 else array.data).cast("B") for array in body]


def _target(sample: Sample, name: str) -> LoadedTarget:
    array = sample.targets[name]
    form = {"name": name, "kind": sample.kinds[name], "dtype": array.dtype.name, "shape": array.shape}
    return LoadedTarget.model_validate(form | {"names": tuple(sample.names.get(name, ()))})


class _Pages:
    """Keeps the current examination open, so that its next page does not repeat the work."""

    def __init__(self) -> None:
        self._running: tuple[int, list[str], int, Iterator[Item]] | None = None

    def get(self, reader: Reader, names: list[str], start: int) -> tuple[list[Item], bool]:
        running = self._running
        if running is None or (id(reader), names, start) != running[:3]:
            running = (id(reader), names, start, itertools.islice(reader.examine(names), start, None))
        self._running = None  # an error ends it
        page = list(itertools.islice(running[3], PAGE))
        if len(page) == PAGE:
            self._running = (id(reader), names, start + PAGE, running[3])
        return page, len(page) == PAGE


class RemoteFiles:
    """`Files` that are requested over the pipe."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.pushed: tuple[str, bytearray] | None = None  # a whole file that came with the operation

    def names(self, below: str = "") -> Iterator[str]:
        """Yield the names, page by page."""
        offset = 0
        while page := json.loads(self._ask(Question(what="names", name=below, offset=offset))):
            offset += len(page)
            yield from page

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return int(self._ask(Question(what="size", name=name)))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes | bytearray:
        """Return a file's bytes."""
        if length == 0:
            return b""
        if self.pushed is not None and self.pushed[0] == name:
            return self.pushed[1][offset:] if length is None else self.pushed[1][offset : offset + length]
        return self._ask(Question(what="bytes", name=name, offset=offset, length=length or 0))


def _plain(item: Item) -> Found:
    if isinstance(item, Quarantined):
        return Found(key=item.key, reason=item.reason, detail=item.detail[:1000])
    targets = {name: FoundTarget(**vars(target)) for name, target in item.targets.items()}
    return Found(**{**vars(item), "targets": targets})
