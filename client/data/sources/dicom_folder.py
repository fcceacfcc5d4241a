"""A folder of DICOM files and a CSV of labels: one sample per file, or with `volumes` one per series."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from salus.client.data.dicom.decoders import load_decoders, try_volume
from salus.client.data.dicom.picture import DicomImage, Window, read_image
from salus.client.data.dicom.volumes import split_times, stack
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.base import Files, SourceOptions
from salus.client.data.sources.labels import LabelRow, Labels, read_labels
from salus.common.errors import UnreadableImage

AS_STORED = Window("LINEAR_EXACT", 0.5, 1.0)  # the same for every slice, so that no slice is stretched separately
SKIPPED_NAMES = {"DICOMDIR", "LICENSE", "README", "SHA256SUMS", "DIRFILE"}
SKIPPED_SUFFIXES = {".csv", ".txt", ".md", ".json", ".toml"}


class DicomFolder:
    """Tries every file below the root that is not obviously something else."""

    @staticmethod
    def prepare() -> None:
        """Load all decoders and character sets, and make one small volume."""
        load_decoders()
        try_volume()

    def __init__(self, files: Files, options: SourceOptions) -> None:
        self._files = files
        self._options = options
        self._labels: Labels = read_labels(files, options)

    def _read(self, name: str) -> DicomImage:
        return read_image(bytes(self._files.read(name)), "the file")

    def wants(self, name: str) -> bool:
        """Return whether a file may be DICOM."""
        path = PurePosixPath(name)
        return path.name.upper() not in SKIPPED_NAMES and path.suffix.lower() not in SKIPPED_SUFFIXES

    def group(self, name: str) -> str:
        """Return the series of a slice if volumes are requested."""
        if not self._options.volumes:
            return ""
        image = self._read(name)
        if not image.series_uid:
            raise UnreadableImage("no-series", "a slice without SeriesInstanceUID belongs to no volume")
        # Multi-frame files are volumes of their own; a series belongs to one patient, whatever its files say.
        alone = name if image.values.shape[0] > 1 else ""
        return json.dumps([image.patient_id, image.study_uid, image.series_uid, alone])

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each file, or the volumes of a series."""
        if self._options.volumes:
            yield from self._volumes(list(names))
            return
        for key in names:
            image = self._read(key)
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

    def _volumes(self, keys: list[str]) -> list[ImageRecord]:
        """Return one record per volume of a series; a series in time holds several."""
        images = {key: self._read(key) for key in keys}
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
            return _volume([self._read(name) for name in json.loads(key)])
        image = self._read(key)
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
