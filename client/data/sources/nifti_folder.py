"""A folder of NIfTI volumes; each counts as its own patient unless the label file or the folder says otherwise.

Masks are found by the conventions in `layouts`. Without a label file the label is the mask's volume in millilitres: of all
its voxels above zero, or with `label_column` a number, of the voxels of that number. `positive_above` turns it into ``1``
or ``0``.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import nibabel
import numpy as np

from salus.client.data.records import PATIENT_BY, ImageRecord, Quarantined, Sample, picture_key
from salus.client.data.sources.base import Files, files_of
from salus.client.data.sources.cells import extra_of
from salus.client.data.sources.label_match import NOBODY, LabelRow, Labels
from salus.client.data.sources.labels import check_patients, has_label_file, read_labels
from salus.client.data.sources.layouts import NO_MASK, Case, Layout, is_volume
from salus.client.data.sources.masks import combined, on_grid
from salus.client.data.sources.nifti import Stored, decoded, expanded, single_header
from salus.client.data.sources.nifti_header import MAX_BYTES
from salus.client.data.sources.nifti_layout import layout_of
from salus.client.data.sources.nifti_samples import MASK, VOLUME, Loaded, NiftiSamples, volume_of
from salus.client.data.sources.settings import NiftiSettings
from salus.client.data.structures import Structures, checked_names
from salus.common.errors import UnreadableImage


class NiftiFolder:
    """Every NIfTI file below `root`, brought to the axes of DICOM volumes: z up, y back, x left."""

    Settings = NiftiSettings

    @staticmethod
    def prepare() -> None:
        """Read one small volume, so that everything nibabel needs is loaded."""
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))  # type: ignore[no-untyped-call]
        data = expanded(gzip.compress(image.to_bytes()), MAX_BYTES)
        volume = decoded(Stored(single_header(data), data, (data,)))
        moved = replace(volume, affine=volume.affine @ np.diag([1.0, 1.0, 2.0, 1.0]))
        numbers, outside = on_grid(volume, moved)
        combined([(numbers, Structures.named(["trial"]), outside)], chosen=False)

    def __init__(self, files: Files, options: NiftiSettings) -> None:
        self._files, self._options = files, options
        checked_names(options.structures)
        self._layout: Layout = layout_of(files, options)
        names = [PurePosixPath(name).name for name in self._layout.cases]
        self._names = Counter(names)
        self._masks = self._layout.masks
        self._samples = NiftiSamples(files, options, self._layout)
        self._further = self._masks | {
            name for case in self._layout.cases.values() for name in self._samples.names(case)
        }
        self._labels: Labels | None = None
        listed = any(case.label for case in self._layout.cases.values())
        if (
            options.unlabelled
            or options.labels
            or (not self._masks and not listed)
            or (not options.masks and has_label_file(files))
        ):
            self._labels = read_labels(files, options)
            check_patients(self._labels)

    def wants(self, name: str) -> bool:
        """Return whether a file begins a sample, or has to be reported."""
        layout = self._layout
        return name in layout.cases or name in layout.orphans or bool(layout.index and name == layout.index)

    def is_part(self, name: str) -> bool:
        """Return whether a file is a mask, a further channel or the header of a case, or a volume that was not chosen."""
        return name in self._further or is_volume(name)

    def group(self, name: str) -> str:
        """Return nothing: each case is a sample."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each first file; of others, why they cannot be used."""
        for name in names:
            if name == self._layout.index:
                yield from self._layout.listed
                continue
            if name in self._layout.orphans:
                raise UnreadableImage(*self._layout.orphans[name])
            yield from self._examined(name)

    def _examined(self, name: str) -> Iterator[ImageRecord]:
        case = self._layout.cases[name]
        row = self._row(name, case)
        if case.problem and (case.problem is not NO_MASK or row is None):
            raise UnreadableImage(*case.problem)
        loaded = self._samples.read(case)
        for number in self._samples.parts(loaded):
            yield self._record(case, loaded, number, row)

    def _record(self, case: Case, loaded: Loaded, number: int | None, row: LabelRow | None) -> ImageRecord:
        names = self._samples.names(case)
        marker = [] if number is None else [f"{VOLUME}{number}"]
        key = names[0] if len(names) == 1 and not marker else json.dumps([*names, *marker])
        extra = extra_of(row, self._files, self._options)
        sample = extra.on(self._samples.sample(loaded, number))
        shape = sample.values.shape
        info: dict[str, str | float | int | list[float]] = {
            "modality": self._layout.modality or "MR",
            "channels": shape[0],
            "slices": shape[1],
            "rows": shape[2],
            "columns": shape[3],
            "spacing_mm": list(sample.spacing_mm),
            "intensity_range": [float(sample.measured.min()), float(sample.measured.max())],
        }
        if row is None:
            row = LabelRow(case.label or self._amount(loaded.mask_ml))
        info |= row.person
        patient = (row.patient if row.patient != NOBODY else "") or case.patient or row.patient
        if not patient:
            patient, info[PATIENT_BY] = picture_key(loaded.pixels), "picture"
        targets = {} if loaded.mask is None else {MASK: loaded.mask.target(loaded.volume.voxel_ml)}
        return ImageRecord(
            patient,
            patient,
            key,
            row.label,
            row.split or case.split,
            sample.sha256,
            sample.pixel_sha256,
            group=row.group,
            info=info,
            targets={**targets, **extra.targets},
        )

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield the rows of the label file that no image has, see `Labelled`."""
        return iter(()) if self._labels is None else self._labels.unmatched()

    def load(self, key: str) -> Sample:
        """Return ``[channels, z, y, x]``, stretched from its smallest to its largest value, with its mask."""
        files = files_of(key)
        case = self._layout.cases.get(files[0])
        bare = None if case is None else replace(case, masks=())
        used = next((one for one in (case, bare) if one is not None and files == self._samples.names(one)), None)
        if case is None or used is None:
            raise UnreadableImage("missing", "the folder no longer holds these files together")
        sample = self._samples.sample(self._samples.read(used), volume_of(key))
        return extra_of(self._row(files[0], case), self._files, self._options).on(sample)

    def _row(self, name: str, case: Case) -> LabelRow | None:
        """Return a file's row of the label file, or None if it has none and its mask will do."""
        if self._labels is None:
            return None
        row = self._labels.find(file=name, owner=name)
        if row is None and self._names[PurePosixPath(name).name] == 1:
            row = self._labels.find(file=PurePosixPath(name).name, owner=name)
        if row is None and case.patient:
            row = self._labels.find(patient=case.patient)
        if row is None and not case.masks:
            raise UnreadableImage("unlabelled", "no label for this file")
        return row

    def _amount(self, volume_ml: float) -> str:
        above = self._options.positive_above
        return f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above))
