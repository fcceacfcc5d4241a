"""A folder of DICOM files and a CSV of labels: one sample per file, or with `volumes` one per series."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from salus.client.data.dicom.decoders import load_decoders, try_volume
from salus.client.data.dicom.dimensions import checked_name
from salus.client.data.dicom.geometry import plane_affine
from salus.client.data.dicom.kinds import check_kind_of, checked_kinds
from salus.client.data.dicom.picture import DicomImage, read_image, read_images
from salus.client.data.dicom.references import HEAD_BYTES, is_annotation
from salus.client.data.dicom.volumes import Volume
from salus.client.data.identity import normalised
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.accompanying import accompanies, is_archive
from salus.client.data.sources.base import Files, files_of
from salus.client.data.sources.cells import extra_of, with_digest
from salus.client.data.sources.dicom_frames import chosen, file_of, keyed, pieces, refused_files, with_left_out
from salus.client.data.sources.dicom_masks import (
    Masked,
    digest_with,
    group_of,
    index_of,
    is_mask,
    masked_by,
    read_mask,
    read_slice,
)
from salus.client.data.sources.dicom_samples import (
    clip_sample,
    in_suv,
    joined_digest,
    picture_sample,
    plane_ml,
    slices_digest,
    volume_sample,
)
from salus.client.data.sources.dicom_series import Part, channels_of, key_of, markers_of, parts_of
from salus.client.data.sources.label_match import LabelRow, Labels
from salus.client.data.sources.labels import has_label_file, read_labels
from salus.client.data.sources.settings import DicomSettings
from salus.client.data.structures import Mask, checked_names
from salus.common.errors import DataError, UnreadableImage

NO_IMAGES = ("mask-without-image", "the images that it refers to are not here")
NO_PICTURE = ("annotation", "a segmentation or structure set, not an image")
CLIP = ("clip", "a clip in time, not a volume; register it without --volumes")
MASK = "mask"
Info = dict[str, str | float | int | list[float]]


class DicomFolder:
    """Tries every file below the root that is not obviously something else.

    Segmentations and structure sets become the masks of the series to which they refer; without a label file the label is the
    volume of all their structures in millilitres.
    """

    Settings = DicomSettings

    @staticmethod
    def prepare() -> None:
        """Load all decoders and character sets, and make one small volume."""
        load_decoders()
        try_volume()

    def __init__(self, files: Files, options: DicomSettings) -> None:
        self._files = files
        self._options = options
        checked_names(options.structures)
        self._include = checked_kinds(options.include)
        if options.frames not in ("", "first", "each"):
            raise DataError(f"Expected first or each, got {options.frames!r}.", remedy="Correct --frames.")
        if checked_name(options.channels) and not options.volumes:
            raise DataError("--channels joins volumes, got it without --volumes.", remedy="Add --volumes.")
        self._index = index_of(files, options)
        self._labels: Labels | None = None
        if options.unlabelled or options.labels or has_label_file(files) or not self._annotated():
            self._labels = read_labels(files, options)

    def _annotated(self) -> bool:
        """Return whether there are annotation objects that take the place of labels."""
        if self._index.names or not self._options.volumes:
            return bool(self._index.names)
        return any(self.wants(name) and is_mask(self._files, name) for name in self._files.names())

    def _picture(self, name: str) -> bytes:
        """Return a file's bytes; raises UnreadableImage for an object that is not a training picture."""
        data = bytes(self._files.read(name))
        check_kind_of(data, self._include)
        return data

    def _images(self, data: bytes) -> list[DicomImage]:
        """Return the image of a file, or those that `frames` makes of a clip."""
        image = self._one(data)
        if not image.is_clip or not self._options.frames:
            return [image]
        return pieces(image) if self._options.frames == "each" else pieces(image)[:1]

    def _one(self, data: bytes) -> DicomImage:
        image = read_image(data, "the file")
        return in_suv(image) if self._options.suv else image

    def _planes(self, data: bytes) -> list[DicomImage]:
        """Return the images of a file that may be parts of volumes."""
        images = read_images(data, "the file")
        return [in_suv(image) for image in images] if self._options.suv else images

    def wants(self, name: str) -> bool:
        """Return whether a file may be DICOM."""
        return not accompanies(name) and not is_archive(name)

    def group(self, name: str) -> str:
        """Return the series of a slice, or of an annotation object, if volumes are requested."""
        if not (self._options.volumes or self._options.unlabelled):
            return ""
        data = bytes(self._files.read(name))
        if is_annotation(data[:HEAD_BYTES]):
            if self._options.unlabelled:
                raise UnreadableImage(*NO_PICTURE)
            return "" if self._index.names else group_of(data)
        if not self._options.volumes:
            return ""
        check_kind_of(data, self._include)
        image = read_images(data, "the file")[0]
        if image.is_clip:
            raise UnreadableImage(*CLIP)
        if not image.series_uid:
            raise UnreadableImage("no-series", "a slice without SeriesInstanceUID belongs to no volume")
        # Multi-frame files are volumes of their own; a series belongs to one patient, whatever its files say.
        alone = name if image.values.shape[0] > 1 else ""
        return json.dumps([normalised(image.patient_id), image.study_uid, image.series_uid, alone])

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each file, or the volumes of a series."""
        if self._index.names:
            names = [name for name in names if name not in self._index.names]
        if self._options.volumes:
            yield from self._volumes(list(names))
            return
        for key in names:
            for name, image in keyed(key, self._images(self._picture(key))).items():
                masked = masked_by(self._files, self._index.of([image]), partial(self._slice_mask, image=image))
                yield from masked.refused
                yield self._record([image], Part((name,)), masked, image.info, plane_ml(image))

    def _record(self, slices: list[DicomImage], part: Part, masked: Masked, info: Info, voxel_ml: float) -> ImageRecord:
        first, mask, volume, name = slices[0], masked.mask, self._options.volumes, file_of(part.keys[0])
        row = self._label(first, name, mask, voxel_ml)
        digest = slices_digest(slices) if volume else first.sha256
        extra = extra_of(self._row(first, name), self._files, self._options)
        return ImageRecord(
            self._patient(first, row),
            first.study_uid,
            key_of(part, masked.used) if volume or masked.used or name != part.keys[0] else name,
            row.label,
            row.split,
            with_digest(digest_with(digest, masked.data), extra.digest),
            joined_digest(image.pixel_sha256 for image in slices) if volume else first.pixel_sha256,
            group=row.group or str(info["vendor"]),
            info={**info, **row.person},
            targets={**({} if mask is None else {MASK: mask.target(voxel_ml)}), **extra.targets},
        )

    def _label(self, image: DicomImage, key: str, mask: Mask | None, voxel_ml: float) -> LabelRow:
        row = self._row(image, key)
        if row is None and mask is None:
            raise UnreadableImage("unlabelled", "no label or usable mask for this file, its study or its patient")
        if row is None and mask is not None:
            marked = mask.values if mask.values.ndim == mask.dimensions else mask.values.any(axis=0)
            volume_ml, above = float(np.count_nonzero(marked)) * voxel_ml, self._options.positive_above
            return LabelRow(f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above)))
        assert row is not None  # Safe because both are handled above.
        return row

    def _row(self, image: DicomImage, key: str) -> LabelRow | None:
        if self._labels is None:
            return None
        return self._labels.find(
            file=key,
            instance=image.instance_uid,
            series=image.series_uid,
            study=image.study_uid,
            accession=image.accession_number,
            patient=image.patient_id,
            owner=normalised(image.patient_id),
        )

    def _patient(self, image: DicomImage, row: LabelRow) -> str:
        patient = image.patient_id if normalised(image.patient_id) else row.patient
        if not normalised(patient):
            raise UnreadableImage("no-patient", "no PatientID in the file or in the label file")
        return patient

    def _volumes(self, keys: list[str]) -> list[ImageRecord | Quarantined]:
        """Return one record per volume of a series, and what belongs to none."""
        objects = [] if self._index.names else [key for key in keys if is_mask(self._files, key)]
        images: dict[str, DicomImage] = {}
        refused: dict[str, Quarantined] = {key: Quarantined(key, *NO_IMAGES) for key in objects}
        for key in keys:
            if key not in refused:
                try:
                    images |= keyed(key, self._planes(self._picture(key)))
                except UnreadableImage as problem:
                    refused[key] = Quarantined(key, problem.reason, problem.detail)
        found: list[ImageRecord | Quarantined] = []
        used: set[str] = set()
        taken: set[str] = set()
        parts, odd = parts_of(images, self._options.channels) if images else ([], [])
        refused |= {item.key: item for item in odd}
        for part in parts:
            try:
                record, masked = self._volume(part, images, objects)
                taken |= set(part.keys)
            except UnreadableImage as problem:
                refused |= {key: Quarantined(key, problem.reason, problem.detail) for key in part.keys}
                continue
            found.append(record)
            refused |= {item.key: item for item in masked.refused}
            used |= set(masked.used)
        found = with_left_out(found, refused)
        return [*found, *refused_files({key: item for key, item in refused.items() if key not in used}, taken)]

    def _volume(
        self, part: Part, images: Mapping[str, DicomImage], objects: Sequence[str]
    ) -> tuple[ImageRecord, Masked]:
        slices = [images[key] for key in part.keys]
        sample, volume = volume_sample(slices, part.channels)
        others = frozenset(image.instance_uid for key, image in images.items() if key not in part.keys)
        read = partial(self._volume_mask, slices=slices, volume=volume, others=others)
        masked = masked_by(self._files, objects or self._index.of(slices), read)
        info = {**slices[0].info, "slices": int(volume.values.shape[0]), "spacing_mm": list(volume.spacing_mm)}
        info["channels"] = len(sample.values)
        info["intensity_range"] = [
            min(float(image.intensities.min()) for image in slices),
            max(float(image.intensities.max()) for image in slices),
        ]
        voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0
        return self._record(slices, part, masked, info, voxel_ml), masked

    def _volume_mask(
        self, data: bytes, slices: Sequence[DicomImage], volume: Volume, others: Collection[str] | None = None
    ) -> Mask:
        placed = slices[0].geometry.position is not None
        affine = volume.affine[:, [2, 1, 0, 3]] if placed else None
        return read_mask(data, slices, affine, volume.values.shape, self._options.structures, others)

    def _slice_mask(self, data: bytes, image: DicomImage) -> Mask:
        mask = read_slice(data, image, plane_affine(image.geometry, image.frame_step_mm), self._options.structures)
        return replace(mask, values=mask.values[..., 0, :, :], dimensions=2)

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield the rows of the label file that no image has, see `Labelled`."""
        return iter(()) if self._labels is None else self._labels.unmatched()

    def load(self, key: str) -> Sample:
        """Return ``[1, rows, columns]``, ``[3, rows, columns]`` or ``[1, z, y, x]``, with its mask."""
        names = files_of(key)
        data = {name: bytes(self._files.read(name)) for name in names}
        objects = [name for name in names if is_annotation(data[name][:HEAD_BYTES])]
        read = self._planes if self._options.volumes else self._images
        images = [read(data[name]) for name in names if name not in objects]
        slices = chosen(images, markers_of(key))
        if not slices:
            raise UnreadableImage("missing", "no image is left of this sample")
        if self._options.volumes:
            sample, volume = volume_sample(slices, channels_of(key))
            sample = self._with_mask(sample, objects, partial(self._volume_mask, slices=slices, volume=volume))
            return extra_of(self._row(slices[0], names[0]), self._files, self._options).on(sample)
        image = slices[0]
        if image.is_clip:
            return extra_of(self._row(image, names[0]), self._files, self._options).on(clip_sample(image))
        if image.values.shape[0] > 1:
            sample = replace(volume_sample([image])[0], sha256=image.sha256)
            return extra_of(self._row(image, names[0]), self._files, self._options).on(sample)
        sample = picture_sample(image)
        sample = self._with_mask(sample, objects, partial(self._slice_mask, image=image))
        return extra_of(self._row(image, names[0]), self._files, self._options).on(sample)

    def _with_mask(self, sample: Sample, objects: Sequence[str], read: Callable[[bytes], Mask]) -> Sample:
        masked = masked_by(self._files, objects, read)
        for problem in masked.refused:
            raise UnreadableImage(problem.reason, problem.detail)
        if masked.mask is None:
            return sample
        return replace(
            sample,
            sha256=digest_with(sample.sha256, masked.data),
            targets={MASK: masked.mask.values},
            kinds={MASK: "mask"},
            names={MASK: masked.mask.names},
        )
