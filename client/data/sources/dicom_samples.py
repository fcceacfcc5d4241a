"""From decoded DICOM images to samples."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from salus.client.data.dicom.display import Window
from salus.client.data.dicom.geometry import plane_affine
from salus.client.data.dicom.intensities import Bools
from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.volumes import Volume, stack
from salus.client.data.records import Sample
from salus.common.errors import UnreadableImage

SAME_GRID_MM = 0.1
AS_STORED = Window("LINEAR_EXACT", 0.5, 1.0)  # the same for every slice, so that no slice is stretched separately


def picture_sample(image: DicomImage) -> Sample:
    """Return ``[1, rows, columns]`` or ``[3, rows, columns]`` of a file with one image."""
    values, measured = image.values, image.intensities
    if values.ndim == 4:
        values, measured = values[0], measured[0]
    return Sample(
        values,
        image.geometry.spacing_mm,
        sha256=image.sha256,
        intensities=measured,
        pixel_sha256=image.pixel_sha256,
        affine=plane_affine(image.geometry, image.frame_step_mm),
        padding=image.padding,  # of grey images only, whose one frame is the channel
    )


def in_suv(image: DicomImage) -> DicomImage:
    """Return a PET image in standardised uptake values by body weight, shown as before.

    Raises:
        UnreadableImage: ``no-suv``, with the element that is missing.
    """
    if image.suv_factor is None:
        raise UnreadableImage("no-suv", image.no_suv or "it is not PET")
    factor = np.float32(image.suv_factor)
    window = replace(
        image.window, centre=image.window.centre * image.suv_factor, width=image.window.width * image.suv_factor
    )
    low, high = (float(factor * end(image.intensities)) for end in (np.min, np.max))
    return replace(
        image,
        rescaled=image.rescaled * factor,
        intensities=image.intensities * factor,
        window=window,
        info={**image.info, "intensity_range": [low, high]},
    )


def clip_sample(image: DicomImage) -> Sample:
    """Return ``[1, frames, rows, columns]`` or ``[3, frames, rows, columns]`` of a clip, whose first axis is time.

    Its spacing along time is that of its frames' step in space, which tells nothing; the times are facts of the record.
    """
    values, measured = image.values, image.intensities
    values, measured = (part[None] if part.ndim == 3 else np.moveaxis(part, 1, 0) for part in (values, measured))
    return Sample(
        np.ascontiguousarray(values),
        (1.0, *image.geometry.spacing_mm),
        sha256=image.sha256,
        intensities=np.ascontiguousarray(measured),
        pixel_sha256=image.pixel_sha256,
        padding=None if image.padding is None else image.padding[None],
    )


def plane_ml(image: DicomImage) -> float:
    """Return the volume of one pixel in millilitres."""
    return float(np.prod(image.geometry.spacing_mm) * np.linalg.norm(image.frame_step_mm)) / 1000.0


def volume_sample(slices: Sequence[DicomImage], channels: int = 1) -> tuple[Sample, Volume]:
    """Return ``[channels, z, y, x]`` of a series, and the volume of its first channel.

    Args:
        slices: of one channel after the other.

    Raises:
        UnreadableImage: as `volumes.stack`, and ``uneven-channels`` for channels on different grids.
    """
    size = len(slices) // channels
    parts = [slices[start : start + size] for start in range(0, size * channels, size)]
    if len(slices) % channels:
        raise UnreadableImage("missing", "a slice of one channel is missing")
    volumes = [stack(part) for part in parts]
    first = volumes[0]
    if any(
        v.values.shape != first.values.shape or not np.allclose(v.affine, first.affine, atol=SAME_GRID_MM)
        for v in volumes
    ):
        raise UnreadableImage("uneven-channels", "the channels of one sample lie on different grids")
    measured = [stack([replace(image, values=image.intensities, window=AS_STORED) for image in part]) for part in parts]
    sample = Sample(
        np.stack([volume.values for volume in volumes]),
        first.spacing_mm,
        sha256=slices_digest(slices),
        intensities=np.stack([volume.values for volume in measured]),
        pixel_sha256=joined_digest(image.pixel_sha256 for image in slices),
        affine=None if slices[0].geometry.position is None else first.affine[:, [2, 1, 0, 3]],
        padding=_padding(parts),
    )
    return sample, first


def _padding(channels: Sequence[Sequence[DicomImage]]) -> Bools | None:
    """Return which voxels ``[channels, z, y, x]`` are padding, those interpolated from some included; None if none is."""
    if all(image.padding is None for part in channels for image in part):
        return None
    shares = [[_share(image) for image in part] for part in channels]
    padded: Bools = np.stack([stack(part).values > 0 for part in shares])
    return padded


def _share(image: DicomImage) -> DicomImage:
    """Return an image that shows padding as 1 and measurements as 0."""
    marked = np.zeros(image.values.shape, np.float32) if image.padding is None else image.padding.astype(np.float32)
    return replace(image, values=marked, window=AS_STORED)


def joined_digest(digests: Iterable[str]) -> str:
    """Return one hash of several, in whatever order they come."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def slices_digest(slices: Sequence[DicomImage]) -> str:
    """Return the hash of the stored bytes of a series."""
    return joined_digest(image.sha256 for image in slices)
