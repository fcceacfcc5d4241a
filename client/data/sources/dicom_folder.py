"""A folder of DICOM files and a CSV of labels: one sample per file, or with `volumes` one per series."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from salus.client.data.dicom import DicomImage, Window, read_dicom
from salus.client.data.reading import read_isolated
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.base import SourceOptions, Stamp, stamp_of
from salus.client.data.sources.labels import LabelRow, Labels, read_labels
from salus.client.data.volumes import split_times, stack
from salus.common.errors import UnreadableImage

AS_STORED = Window("LINEAR_EXACT", 0.5, 1.0)  # the same for every slice, so none is stretched on its own
SKIPPED_NAMES = {"DICOMDIR", "LICENSE", "README", "SHA256SUMS", "DIRFILE"}
SKIPPED_SUFFIXES = {".csv", ".txt", ".md", ".json", ".toml"}


class DicomFolder:
    """Every file below `root` that is not plainly something else is tried; symbolic links are not followed."""

    def __init__(self, root: Path, options: SourceOptions, read: Callable[[Path], DicomImage] = read_dicom) -> None:
        self._read = read
        self._root = root
        self._options = options
        self._labels: Labels = read_labels(root, options)

    @classmethod
    def isolated(cls, root: Path, options: SourceOptions) -> Self:
        """Return the same source, with every file decoded in a child process."""
        return cls(root, options, read_isolated)

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        for path in self._root.rglob("*"):
            name = str(path.relative_to(self._root))
            if _escaped(name) != name and path.is_file():
                yield Quarantined(_escaped(name), "bad-name", "the file's name is not UTF-8 text; rename it")
        if self._options.volumes:
            yield from self._scan_series()
        else:
            yield from self._scan_files()

    def _files(self) -> Iterator[Path]:
        for path in sorted(self._root.rglob("*")):
            skipped = path.name.upper() in SKIPPED_NAMES or path.suffix.lower() in SKIPPED_SUFFIXES
            name = str(path.relative_to(self._root))
            if path.is_file() and not path.is_symlink() and not skipped and _escaped(name) == name:
                yield path

    def _key(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _label(self, image: DicomImage, key: str) -> LabelRow:
        row = self._labels.find(file=key, study=image.study_uid, patient=image.patient_id)
        if row is None:
            raise UnreadableImage("unlabelled", "no label for this file, its study or its patient")
        return row

    def _patient(self, image: DicomImage, row: LabelRow) -> str:
        patient = image.patient_id or row.patient
        if not patient:
            raise UnreadableImage("no-patient", "no PatientID in the file or in the label file")
        return patient

    def _scan_files(self) -> Iterator[ImageRecord | Quarantined]:
        for path in self._files():
            key = self._key(path)
            try:
                image = self._read(path)
                row = self._label(image, key)
                yield ImageRecord(
                    self._patient(image, row),
                    image.study_uid,
                    key,
                    row.label,
                    row.split,
                    image.sha256,
                    image.pixel_sha256,
                    group=str(image.info["vendor"]),
                    info=image.info,
                )
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)

    def _scan_series(self) -> Iterator[ImageRecord | Quarantined]:
        series: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
        for path in self._files():
            key = self._key(path)
            try:
                image = self._read(path)
                if not image.series_uid:
                    raise UnreadableImage("no-series", "a slice without SeriesInstanceUID belongs to no volume")
                # Multi-frame files are volumes of their own; a series is one patient's, whatever two files claim.
                alone = key if image.values.shape[0] > 1 else ""
                series[(image.patient_id, image.study_uid, image.series_uid, alone)].append(key)
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)
        for keys in series.values():
            try:
                yield from self._volumes(keys)
            except UnreadableImage as problem:
                for key in keys:
                    yield Quarantined(key, problem.reason, problem.detail)

    def _volumes(self, keys: list[str]) -> list[ImageRecord]:
        """Return one record per volume of a series; a series in time holds several."""
        images = {key: self._read(self._root / key) for key in keys}
        names = {id(image): key for key, image in images.items()}
        records = []
        for slices in split_times(list(images.values())):
            volume, first = stack(slices), slices[0]
            mine = [names[id(image)] for image in slices]
            row = self._label(first, mine[0])
            info = {**first.info, "slices": int(volume.values.shape[0]), "spacing_mm": list(volume.spacing_mm)}
            info["intensity_range"] = [
                min(float(image.intensities.min()) for image in slices),
                max(float(image.intensities.max()) for image in slices),
            ]
            records.append(
                ImageRecord(
                    self._patient(first, row),
                    first.study_uid,
                    json.dumps(mine),
                    row.label,
                    row.split,
                    _digest(slices),
                    _joined(image.pixel_sha256 for image in slices),
                    group=str(info["vendor"]),
                    info=info,
                )
            )
        return records

    def load(self, key: str) -> Sample:
        """Return ``[1, rows, columns]``, ``[3, rows, columns]`` or ``[1, z, y, x]``."""
        if self._options.volumes:
            return _volume([self._read(self._root / name) for name in json.loads(key)])
        image = self._read(self._root / key)
        if image.values.ndim == 3 and image.values.shape[0] > 1:
            return _volume([image])
        values, measured = image.values, image.intensities
        if values.ndim == 4:
            values, measured = values[0], measured[0]
        return Sample(
            values,
            image.geometry.spacing_mm,
            sha256=image.sha256,
            intensities=measured,
            pixel_sha256=image.pixel_sha256,
        )

    def stamp(self, key: str) -> Stamp | None:
        names = json.loads(key) if self._options.volumes else [key]
        return stamp_of(self._root / name for name in names)


def _volume(slices: list[DicomImage]) -> Sample:
    volume = stack(slices)
    measured = stack([replace(image, values=image.intensities, window=AS_STORED) for image in slices])
    digest = slices[0].sha256 if len(slices) == 1 else _digest(slices)
    return Sample(
        np.ascontiguousarray(volume.values[None]),
        volume.spacing_mm,
        sha256=digest,
        intensities=np.ascontiguousarray(measured.values[None]),
        pixel_sha256=_joined(image.pixel_sha256 for image in slices),
    )


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _digest(slices: Sequence[DicomImage]) -> str:
    return _joined(image.sha256 for image in slices)


def _escaped(key: str) -> str:
    """Return a file name that can be stored and shown, whatever bytes it has."""
    return key.encode("utf-8", "backslashreplace").decode()
