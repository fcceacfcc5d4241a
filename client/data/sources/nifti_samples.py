"""From the files of one NIfTI case to samples: channels, volumes in time, and the mask on the image's grid."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from salus.client.data.dicom.display import Window, show
from salus.client.data.grids import index_map, same_grid
from salus.client.data.records import Sample, array_digest
from salus.client.data.sources.base import NOT_A_FILE, Files
from salus.client.data.sources.layouts import Case, Layout, MaskFile
from salus.client.data.sources.masks import combined, on_grid
from salus.client.data.sources.nifti import NiftiVolume, Stored, decoded, read_stored
from salus.client.data.sources.settings import NiftiSettings
from salus.client.data.structures import Mask, whole_numbers
from salus.common.errors import DataError, UnreadableImage

MASK = "mask"
VOLUME = f"{NOT_A_FILE}volume="
MAX_TABLE = 2**20  # bytes of a file of b-values
CHANNELS = ("time", "channel", "b-value", "echo")  # what the volumes of a four-dimensional file may stand for


@dataclass(frozen=True)
class Loaded:
    """A case's files as read.

    Args:
        volume: with all its volumes or channels.
        mask_ml: what its mask marks, in millilitres on the mask's own grid.
        digest: of the stored bytes of all files.
        joined: whether the volumes are channels of one sample.
        pixels: hash of all volumes: those of one file are of one patient.
    """

    volume: NiftiVolume
    mask: Mask | None
    mask_ml: float
    digest: str
    joined: bool
    pixels: str


class NiftiSamples:
    """Reads the cases of one folder."""

    def __init__(self, files: Files, options: NiftiSettings, layout: Layout) -> None:
        self._files, self._options, self._layout = files, options, layout
        if options.channels and options.channels not in CHANNELS:
            raise DataError(
                f"Expected --channels with one of {', '.join(CHANNELS)} for NIfTI, got {options.channels!r}.",
                remedy="Correct --channels.",
            )

    def names(self, case: Case) -> tuple[str, ...]:
        """Return all files of a case: images, masks, and the headers of pairs."""
        return (*case.files, *(self._layout.headers[name] for name in case.files if name in self._layout.headers))

    def parts(self, loaded: Loaded) -> list[int | None]:
        """Return what a case's samples are: all of its file, or each of its volumes by number."""
        several = len(loaded.volume.values) > 1 and not loaded.joined
        return list(range(len(loaded.volume.values))) if several else [None]

    def read(self, case: Case) -> Loaded:
        """Return a case's volumes, and its mask on their grid.

        Raises:
            UnreadableImage: as `read_stored` and `decoded`; ``several-volumes`` where the operator has not chosen what they are.
        """
        images = [self._stored(name, mask=False) for name in case.images]
        volumes = [decoded(image) for image in images]
        joined = all(self._are_channels(len(volume.values)) for volume in volumes)
        for name, volume in zip(case.images, volumes, strict=True):
            self._check(name, len(volume.values), joined)
        volume = _joined(volumes)
        parts = [part for image in images for part in image.parts]
        mask, volume_ml = None, 0.0
        if case.masks:
            found = []
            for file in case.masks:
                stored = self._stored(file.name, mask=True)
                parts += stored.parts
                own = decoded(stored)
                if len(own.values) > 1:
                    raise UnreadableImage(
                        "several-volumes", f"its mask holds {len(own.values)} volumes; give one file each"
                    )
                own = replace(own, values=whole_numbers(own.values))
                volume_ml += self._volume_ml(own)
                numbers, outside = on_grid(own, volume)
                found.append((numbers, (file.structures or self._layout.structures), outside))
            chosen = [(n, s.chosen(self._options.structures), o) for n, s, o in found]
            mask = combined(chosen, chosen=self._chosen(case.masks))
        digests = [hashlib.sha256(data).hexdigest() for data in parts]
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        values = volume.values if len(volume.values) > 1 else volume.values[0]
        return Loaded(volume, mask, volume_ml, digest, joined, array_digest(values))

    def sample(self, loaded: Loaded, number: int | None) -> Sample:
        """Return a case's sample, or that of one of its volumes; raises UnreadableImage if it has fewer."""
        volume, mask = loaded.volume, loaded.mask
        values, digest = volume.values, loaded.digest
        if number is not None:
            if not 0 <= number < len(values):
                raise UnreadableImage("missing", "the file has fewer volumes than before")
            values = values[number : number + 1]
            digest = hashlib.sha256(f"{digest} {number}".encode()).hexdigest()
        return Sample(
            np.stack([show(channel, Window(), inverted=False) for channel in values]),
            volume.spacing_mm,
            sha256=digest,
            intensities=values,
            pixel_sha256=array_digest(values if len(values) > 1 else values[0]),
            affine=volume.affine if volume.placed else None,
            axes=volume.axes,
            targets={} if mask is None else {MASK: mask.values},
            kinds={} if mask is None else {MASK: "mask"},
            names={MASK: mask.names} if mask is not None and mask.names else {},
        )

    def _stored(self, name: str, *, mask: bool) -> Stored:
        return read_stored(self._files, name, mask=mask, header=self._layout.headers.get(name, ""))

    def _are_channels(self, count: int) -> bool:
        return count in (1, self._layout.channels) or bool(self._options.channels)

    def _check(self, name: str, count: int, joined: bool) -> None:
        """Raise UnreadableImage unless it is known what the volumes of a file are, and as many as its table of b-values says."""
        if not joined and not self._options.volumes:
            raise UnreadableImage(
                "several-volumes",
                f"it holds {count} volumes; choose --channels time, or --volumes for an image of each",
            )
        table = self._layout.weightings.get(name)
        if table is not None and count > 1:
            text = bytes(self._files.read(table, 0, MAX_TABLE)).decode("ascii", "replace")
            if len(text.split()) != count:
                raise UnreadableImage(
                    "bval-mismatch", f"{count} volumes, {len(text.split())} b-values in the file beside it"
                )

    def _chosen(self, masks: Sequence[MaskFile]) -> bool:
        """Return whether the operator chose some of the structures that have names."""
        known = {name for file in masks for name in (file.structures or self._layout.structures).names}
        return bool(self._options.structures) and set(self._options.structures) < known

    def _volume_ml(self, mask: NiftiVolume) -> float:
        wanted = self._options.label_column
        inside = mask.values[0] == int(wanted) if wanted.isdecimal() else mask.values[0] > 0
        return float(inside.sum()) * mask.voxel_ml


def volume_of(key: str) -> int | None:
    """Return which volume of its file a key names; None for all of it."""
    try:
        last = json.loads(key)[-1] if key.startswith("[") else ""
        return int(last.removeprefix(VOLUME)) if str(last).startswith(VOLUME) else None
    except (ValueError, IndexError, RecursionError):
        return None


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
