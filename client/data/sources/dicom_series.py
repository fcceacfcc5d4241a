"""The volumes of a DICOM series by the names of its files, and how a catalogue's key names them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salus.client.data.dicom.grouping import grouped, plane_of_image
from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.runs import Run
from salus.client.data.records import Quarantined
from salus.client.data.sources.base import NOT_A_FILE
from salus.client.data.sources.dicom_frames import files_of_keys, marker_of

CHANNELS = f"{NOT_A_FILE}channels="
MAX_CHANNELS = 64
UNEVEN = ("uneven-channels", "the volumes that should become channels lie at different places")


@dataclass(frozen=True)
class Part:
    """One sample of a series.

    Args:
        keys: of its images, one channel after the other, each along its normal: names of files, or frames of them.
        channels: the images are divided among them evenly.
    """

    keys: tuple[str, ...]
    channels: int = 1


def parts_of(images: Mapping[str, DicomImage], channels: str) -> tuple[list[Part], list[Quarantined]]:
    """Return the volumes of a series, and the files that belong to none.

    Args:
        images: by the names of their files, or by those of their frames; a multi-frame file without positions alone.
        channels: the dimension whose values become channels; empty for a volume of each value.
    """
    if len(images) == 1 and next(iter(images.values())).values.shape[0] > 1:
        return [Part(tuple(images))], []
    found = grouped([plane_of_image(image, key) for key, image in images.items()])
    refused = [Quarantined(item.plane.key, item.reason, item.detail) for item in found.refused]
    if not channels:
        return [Part(_keys(run)) for run in found.volumes], refused
    parts: list[Part] = []
    for runs in _joined(found.volumes, channels):
        if len({run.places for run in runs}) > 1 or len(runs) > MAX_CHANNELS:
            refused += [Quarantined(key, *UNEVEN) for run in runs for key in _keys(run)]
        else:
            parts.append(Part(tuple(key for run in runs for key in _keys(run)), len(runs)))
    return parts, refused


def key_of(part: Part, masks: Sequence[str]) -> str:
    """Return the catalogue's key of a sample and the annotation objects that belong to it."""
    marker = [f"{CHANNELS}{part.channels}"] if part.channels > 1 else []
    return json.dumps([*files_of_keys(part.keys), *masks, *marker_of(part.keys), *marker])


def markers_of(key: str) -> list[str]:
    """Return what a key says beside the names of files."""
    try:
        return [name for name in json.loads(key) if str(name).startswith(NOT_A_FILE)] if key.startswith("[") else []
    except (ValueError, RecursionError):
        return []  # a file's name may begin like a list


def channels_of(key: str) -> int:
    """Return the number of channels that a key's files are divided among."""
    try:
        last = json.loads(key)[-1] if key.startswith("[") else ""
        return int(last.removeprefix(CHANNELS)) if str(last).startswith(CHANNELS) else 1
    except (ValueError, IndexError, RecursionError):
        return 1


def _keys(run: Run) -> tuple[str, ...]:
    return tuple(plane.key for plane in run.planes)


def _joined(runs: Sequence[Run], channels: str) -> list[list[Run]]:
    """Return the runs of each sample: those of one line that differ in a dimension, and in nothing that it does not imply."""
    lines: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        lines[run.line].append(run)
    found: list[list[Run]] = []
    for mine in lines.values():
        names = {name for run in mine for name in run.values} - {channels}
        others = sorted(name for name in names if not _implied(mine, name, channels))
        groups: dict[object, list[Run]] = defaultdict(list)
        for run in mine:
            groups[tuple(run.values.get(name) for name in others)].append(run)
        for group in groups.values():
            distinct = len({run.values.get(channels) for run in group}) == len(group)
            group.sort(key=lambda run: _order(run, channels))
            found += [group] if distinct else [[run] for run in group]
    return found


def _implied(runs: Sequence[Run], name: str, channels: str) -> bool:
    """Return whether the value of the channels' dimension says the value of another."""
    values: dict[object, set[object]] = defaultdict(set)
    for run in runs:
        values[run.values.get(channels)].add(run.values.get(name))
    return all(len(mine) == 1 for mine in values.values())


def _order(run: Run, channels: str) -> tuple[int, float, tuple[int, str]]:
    """Return where a channel comes: absent values first, then numbers in order, words in the order of their images."""
    value = run.values.get(channels)
    first = min(plane.rank for plane in run.planes)
    return (1, float(value), first) if isinstance(value, float | int) else (0 if value is None else 2, 0.0, first)
