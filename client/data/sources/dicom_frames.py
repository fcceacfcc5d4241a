"""Frames of multi-frame files as samples or parts of them: how a catalogue's key names them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from salus.client.data.dicom.frames import frame_digest
from salus.client.data.dicom.picture import DicomImage
from salus.client.data.records import ImageRecord, Quarantined, array_digest
from salus.client.data.sources.base import NOT_A_FILE, files_of
from salus.common.errors import UnreadableImage

FRAMES = f"{NOT_A_FILE}frames="
FRAME = f"{NOT_A_FILE}#"  # between a file's name and a frame's number, in the keys of images of one series
MAX_PLANES = 2**16
RUN = re.compile(r"(\d{1,6}):(\d{1,6}):(-?\d{1,6}):(\d{1,6})")


def keyed(name: str, images: Sequence[DicomImage]) -> dict[str, DicomImage]:
    """Return the images of a file by a key of each: the file's name, or for several also the frame's number."""
    if len(images) == 1:
        return {name: images[0]}
    return {f"{name}{FRAME}{number:06d}": image for number, image in enumerate(images)}


def file_of(key: str) -> str:
    """Return the file of an image's key."""
    return key.partition(FRAME)[0]


def files_of_keys(keys: Iterable[str]) -> list[str]:
    """Return the files of some images, each once, in order."""
    return list(dict.fromkeys(map(file_of, keys)))


def marker_of(keys: Sequence[str]) -> list[str]:
    """Return what a sample's key says of its images, beside the names of their files: nothing if each is a whole file.

    The images are runs ``file:first frame:step:count``, one after the other; a file counts by its place among the names.
    """
    if not any(FRAME in key for key in keys):
        return []
    places = {name: place for place, name in enumerate(files_of_keys(keys))}
    pairs = [(places[file_of(key)], int(key.partition(FRAME)[2] or 0)) for key in keys]
    runs: list[list[int]] = []
    for file, frame in pairs:
        if runs and runs[-1][0] == file:
            _, first, step, count = runs[-1]
            if count == 1 or frame == first + step * count:
                runs[-1] = [file, first, frame - first if count == 1 else step, count + 1]
                continue
        runs.append([file, frame, 1, 1])
    return [FRAMES + ",".join(":".join(map(str, run)) for run in runs)]


def chosen(images: Sequence[Sequence[DicomImage]], names: Sequence[str]) -> list[DicomImage]:
    """Return the images of a sample, in its order.

    Args:
        images: of each of its files.
        names: what its key lists, markers included.

    Raises:
        UnreadableImage: ``missing``, if a file has other frames than the sample needs.
    """
    marker = next((name.removeprefix(FRAMES) for name in names if name.startswith(FRAMES)), "")
    if not marker:
        return [image for several in images for image in several]
    found: list[DicomImage] = []
    for run in marker.split(","):
        match = RUN.fullmatch(run)
        if match is None:
            raise UnreadableImage("missing", "the frames of this sample cannot be told")
        file, first, step, count = (int(part) for part in match.groups())
        wanted = range(first, first + step * count, step) if step else [first] * count
        if len(found) + count > MAX_PLANES or file >= len(images):
            raise UnreadableImage("missing", "the frames of this sample cannot be told")
        if not all(0 <= frame < len(images[file]) for frame in wanted):
            raise UnreadableImage("missing", "a frame of this sample is no longer in its file")
        found += [images[file][frame] for frame in wanted]
    return found


def refused_files(refused: Mapping[str, Quarantined], used: Iterable[str]) -> list[Quarantined]:
    """Return files that are refused: those of whose images none is used, with the reason of most of them.

    Args:
        refused: by the keys of images.
        used: keys of images that are part of samples.
    """
    taken = set(map(file_of, used))
    reasons: dict[str, Counter[tuple[str, str]]] = {}
    for key, item in refused.items():
        reasons.setdefault(file_of(key), Counter())[(item.reason, item.detail)] += 1
    return [Quarantined(name, *found.most_common(1)[0][0]) for name, found in reasons.items() if name not in taken]


def with_left_out(
    found: Sequence[ImageRecord | Quarantined], refused: Iterable[str]
) -> list[ImageRecord | Quarantined]:
    """Return records with the fact ``frames_left_out``: how many frames of their file belong to no volume.

    Args:
        refused: keys of images that belong to none.
    """
    counts = Counter(file_of(key) for key in refused if FRAME in key)
    counted: list[ImageRecord | Quarantined] = []
    for item in found:
        left = sum(counts[name] for name in files_of(item.key)) if isinstance(item, ImageRecord) else 0
        if isinstance(item, ImageRecord) and left:
            counted.append(replace(item, info={**item.info, "frames_left_out": left}))
        else:
            counted.append(item)
    return counted


def pieces(image: DicomImage) -> list[DicomImage]:
    """Return each frame of a clip as an image of its own, shown as in the clip."""
    return [
        replace(
            image,
            values=image.values[number : number + 1],
            rescaled=image.rescaled[number : number + 1],
            intensities=image.intensities[number : number + 1],
            sha256=frame_digest(image.sha256, number),
            pixel_sha256=array_digest(np.ascontiguousarray(image.rescaled[number : number + 1])),
            padding=None if image.padding is None else image.padding[number : number + 1],
            intervals_ms=(),
            info={**image.info, "frames": 1},
        )
        for number in range(len(image.values))
    ]
