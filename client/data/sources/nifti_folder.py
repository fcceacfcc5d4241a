"""A folder of NIfTI volumes; each counts as its own patient unless the label file or the folder says otherwise.

Masks are found by the conventions in `layouts`. Without a label file the label is the mask's volume in millilitres: of all
its voxels above zero, or with `label_column` a number, of the voxels of that number. `positive_above` turns it into ``1``
or ``0``.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import nibabel
import numpy as np

from salus.client.data.dicom.picture import Window, show
from salus.client.data.grids import index_map, same_grid
from salus.client.data.records import PATIENT_BY, ImageRecord, Quarantined, Sample, array_digest, picture_key
from salus.client.data.sources.base import Files, SourceOptions, files_of
from salus.client.data.sources.cells import extra_of
from salus.client.data.sources.label_match import LabelRow, Labels
from salus.client.data.sources.labels import check_patients, has_label_file, read_labels
from salus.client.data.sources.layouts import NO_MASK, Case, Layout, MaskFile, is_volume
from salus.client.data.sources.masks import combined, on_grid
from salus.client.data.sources.nifti import MAX_BYTES, NiftiVolume, decoded, expanded, read_bytes
from salus.client.data.sources.nifti_layout import layout_of
from salus.client.data.structures import Mask, Structures, checked_names
from salus.common.errors import UnreadableImage

MASK = "mask"


class NiftiFolder:
    """Every ``.nii`` and ``.nii.gz`` below `root`, brought to the axes of DICOM volumes: z up, y back, x left."""

    @staticmethod
    def prepare() -> None:
        """Read one small volume, so that everything nibabel needs is loaded."""
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))  # type: ignore[no-untyped-call]
        volume = decoded(expanded(gzip.compress(image.to_bytes()), MAX_BYTES))
        moved = replace(volume, affine=volume.affine @ np.diag([1.0, 1.0, 2.0, 1.0]))
        numbers, outside = on_grid(volume, moved)
        combined([(numbers, Structures.named(["trial"]), outside)], chosen=False)

    def __init__(self, files: Files, options: SourceOptions) -> None:
        self._files, self._options = files, options
        checked_names(options.structures)
        self._layout: Layout = layout_of(files, options)
        names = [PurePosixPath(name).name for name in self._layout.cases]
        self._names = Counter(names)
        self._masks = self._layout.masks
        self._further = self._masks | {name for case in self._layout.cases.values() for name in case.files}
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
        """Return whether a file is a mask or a further channel of a case, or a volume that was not chosen."""
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
            yield self._examined(name)

    def _examined(self, name: str) -> ImageRecord:
        case = self._layout.cases[name]
        row = self._row(name, case)
        if case.problem and (case.problem is not NO_MASK or row is None):
            raise UnreadableImage(*case.problem)
        key = name if len(case.files) == 1 else json.dumps(case.files)
        sample, mask, volume_ml = self._loaded(case)
        extra = extra_of(row, self._files, self._options)
        sample = extra.on(sample)
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
            row = LabelRow(case.label or self._amount(volume_ml))
        info |= row.person
        patient = row.patient or case.patient
        if not patient:
            patient, info[PATIENT_BY] = picture_key(sample.pixel_sha256), "picture"
        targets = {} if mask is None else {MASK: mask.target(float(np.prod(sample.spacing_mm)) / 1000.0)}
        return ImageRecord(
            patient,
            patient,
            key,
            row.label,
            row.split or case.split,
            sample.sha256,
            sample.pixel_sha256,
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
        if case is None or files not in (case.files, case.images):
            raise UnreadableImage("missing", "the folder no longer holds these files together")
        sample = self._loaded(case if files == case.files else replace(case, masks=()))[0]
        return extra_of(self._row(files[0], case), self._files, self._options).on(sample)

    def _loaded(self, case: Case) -> tuple[Sample, Mask | None, float]:
        """Return a case's sample, its mask, and the mask's volume in millilitres on its own grid."""
        parts = [read_bytes(self._files, name, mask=False) for name in case.images]
        volume = _joined([decoded(data, self._layout.channels) for data in parts])
        digests = [hashlib.sha256(data).hexdigest() for data in parts]
        mask, volume_ml = None, 0.0
        if case.masks:
            found = []
            for file in case.masks:
                data = read_bytes(self._files, file.name, mask=True)
                digests.append(hashlib.sha256(data).hexdigest())
                own = decoded(data)
                volume_ml += self._volume_ml(own)
                numbers, outside = on_grid(own, volume)
                found.append((numbers, (file.structures or self._layout.structures), outside))
            mask = combined(
                [(n, s.chosen(self._options.structures), o) for n, s, o in found], chosen=self._chosen(case.masks)
            )
        shown = np.stack([show(channel, Window(), inverted=False) for channel in volume.values])
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        sample = Sample(
            shown,
            volume.spacing_mm,
            sha256=digest,
            intensities=volume.values,
            pixel_sha256=array_digest(volume.values if len(volume.values) > 1 else volume.values[0]),
            affine=volume.affine if volume.placed else None,
            axes=volume.axes,
            targets={} if mask is None else {MASK: mask.values},
            kinds={} if mask is None else {MASK: "mask"},
            names={MASK: mask.names} if mask is not None and mask.names else {},
        )
        return sample, mask, volume_ml

    def _chosen(self, masks: Sequence[MaskFile]) -> bool:
        """Return whether the operator chose some of the structures that have names."""
        known = {name for file in masks for name in (file.structures or self._layout.structures).names}
        return bool(self._options.structures) and set(self._options.structures) < known

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

    def _volume_ml(self, mask: NiftiVolume) -> float:
        wanted = self._options.label_column
        inside = mask.values[0] == int(wanted) if wanted.isdecimal() else mask.values[0] > 0
        return float(inside.sum()) * float(np.prod(mask.spacing_mm)) / 1000.0

    def _amount(self, volume_ml: float) -> str:
        above = self._options.positive_above
        return f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above))


def _joined(channels: Sequence[NiftiVolume]) -> NiftiVolume:
    """Return the channels of one case as one volume; raises UnreadableImage if they do not share a grid."""
    first = channels[0]
    if len(channels) == 1:
        return first
    shape = first.values.shape[1:]
    for other in channels[1:]:
        matrix = index_map(other.affine, first.affine)
        if other.values.shape[1:] != shape or other.placed != first.placed or not same_grid(shape, matrix):
            raise UnreadableImage("mixed-channels", "the channels of one case lie on different grids")
    return replace(first, values=np.concatenate([channel.values for channel in channels]))
