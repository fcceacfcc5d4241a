"""``dataset.json`` of nnU-Net, of the Medical Segmentation Decathlon, and of MONAI."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from salus.client.data.records import Quarantined
from salus.client.data.sources.layouts import NO_MASK, Case, Layout, MaskFile, cases_of, is_volume, unnumbered
from salus.client.data.structures import Structures
from salus.client.data.targets import MAX_NAMES, MAX_NUMBER
from salus.common.errors import DataError

INDEX = "dataset.json"
MAX_JSON_BYTES = 2**26
MAX_LISTED = 10**6
PARTS = {"training": "", "validation": "val", "testing": "test", "test": "test"}
MODALITIES = {
    "CT": "CT",
    "MRI": "MR",
    "MR": "MR",
    "T1": "MR",
    "T1W": "MR",
    "T2": "MR",
    "T2W": "MR",
    "FLAIR": "MR",
    "PET": "PT",
}


def parsed(data: bytes, name: str = INDEX, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return a JSON object; raises DataError for anything else, or more than `most` bytes."""
    try:
        if len(data) > most:
            raise ValueError
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"Expected {name!r} to be a JSON object of at most {most} bytes.", remedy="Correct the file.")
    return found


def structures_of(content: Mapping[str, Any]) -> Structures:
    """Return the structures: ``{"1": "liver"}`` or ``{"liver": 1, "whole": [1, 2]}``; raises DataError for another form."""
    labels = content.get("labels", {})
    if not isinstance(labels, dict) or len(labels) > MAX_NAMES:
        raise _bad_labels()
    numbers: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        if isinstance(value, str) and key.isascii() and key.isdecimal():
            name, mine = value, [int(key[:6])]
        else:
            name, mine = key, value if isinstance(value, list) else [value]
        if not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in mine) or not mine or name in numbers:
            raise _bad_labels()
        if name == "ignore":
            raise DataError(
                f"{INDEX} has a label 'ignore' for voxels without annotation, which Salus does not support.",
                remedy="Remove the label, and give these voxels a class.",
            )
        if mine != [0]:
            numbers[name] = tuple(number for number in mine if number)
    return Structures(dict(sorted(numbers.items(), key=lambda pair: pair[1])) if not _regions(numbers) else numbers)


def _regions(numbers: Mapping[str, tuple[int, ...]]) -> bool:
    return any(len(mine) > 1 for mine in numbers.values())


def _bad_labels() -> DataError:
    return DataError(
        f"Expected 'labels' in {INDEX} to name each structure once, with its number or numbers.",
        remedy='Write "labels": {"background": 0, "liver": 1}.',
    )


def modality_of_json(content: Mapping[str, Any]) -> tuple[str, int]:
    """Return the DICOM modality, empty if several or unknown, and the number of channels."""
    names = content.get("channel_names") or content.get("modality") or {}
    words = [str(word).upper() for word in names.values()] if isinstance(names, dict) else []
    kinds = {MODALITIES.get(word, "") for word in words}
    return kinds.pop() if len(kinds) == 1 else "", max(len(words), 1)


def listed(content: Mapping[str, Any], names: "set[str]", pattern_of: Structures) -> Layout:
    """Return the cases that ``dataset.json`` lists.

    Args:
        names: all files of the folder.
        pattern_of: the structures.
    """
    cases: dict[str, Case] = {}
    bad: list[Quarantined] = []
    channels = {unnumbered(files[0]): files for files in cases_of(sorted(filter(is_volume, names))).values()}
    for number, (entry, split) in enumerate(_entries(content)):
        case = _case(entry, split, names, channels)
        if case is None or case.images[0] in cases:
            reason = "bad-entry" if case is None else "listed-twice"
            bad.append(
                Quarantined(f"{INDEX}/{number}", reason, "an entry without files of this folder, or a repeated one")
            )
        else:
            cases[case.images[0]] = case
    used = {name for case in cases.values() for name in case.files}
    for name in sorted(filter(is_volume, names)):
        if name not in used:
            bad.append(Quarantined(name, "unlisted", f"{INDEX} does not list this file"))
    modality, count = modality_of_json(content)
    return Layout(cases, structures=pattern_of, modality=modality, channels=count, index=INDEX, listed=bad)


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    count = 0
    for part, split in PARTS.items():
        entries = content.get(part, [])
        for entry in entries if isinstance(entries, list) else []:
            count += 1
            if count > MAX_LISTED:
                raise DataError(f"{INDEX} lists more than {MAX_LISTED} cases.", remedy="Split the data set.")
            yield entry, split


def _case(entry: Any, split: str, names: "set[str]", channels: Mapping[str, tuple[str, ...]]) -> Case | None:
    """Return an entry's case; None if it names no files of this folder."""
    entry = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        return None
    image, label = entry.get("image"), entry.get("label")
    listed_images = image if isinstance(image, list) else [image]
    found = [_place(one) for one in listed_images]
    if len(found) == 1 and found[0] not in names:
        images = channels.get(found[0], ())
    else:
        images = tuple(found)
    if not images or len(images) > 64 or not set(images) <= names:
        return None
    if isinstance(label, str) and is_volume(label):
        mask = _place(label)
        return Case(images, (MaskFile(mask),), split=split) if mask in names else None
    if isinstance(label, str | int) and not isinstance(label, bool):
        return Case(images, split=split, label=str(label)[:64])
    return Case(images, split=split, problem=NO_MASK)


def _place(name: object) -> str:
    """Return a listed file's place below the folder; empty for one that leads out of it."""
    if not isinstance(name, str) or name.startswith("/"):
        return ""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    return "" if ".." in parts else "/".join(parts)
