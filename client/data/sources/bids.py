"""BIDS: images ``sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz``, masks ``derivatives/<name>/sub-01/..._dseg.nii.gz`` or ``_mask``.

A mask belongs to the image of the same subject, session and other entities. If several images fit, `space` may name one by its
suffix (``space-T1w``); otherwise the operator chooses with a pattern, and nothing is guessed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from salus.client.data.sources.layouts import (
    NO_IMAGE,
    NO_MASK,
    Case,
    Layout,
    MaskFile,
    chosen,
    is_volume,
    without_suffix,
)
from salus.client.data.structures import Structures
from salus.client.data.targets import MAX_NAMES, MAX_NUMBER
from salus.common.errors import DataError, UnreadableImage

MASKS = ("dseg", "mask")
DESCRIBING = frozenset({"space", "desc", "label", "seg", "res", "den", "hemi", "atlas"})  # say how a mask was made
SEVERAL_IMAGES = (
    "ambiguous-mask",
    "several images match this mask; choose one kind with --images, such as '*_T1w.nii.gz'",
)
SEVERAL_MASKS = ("several-masks", "several masks match this image; name the folder of one kind with --masks")


def entities(name: str) -> tuple[dict[str, str], str]:
    """Return the entities of a file's name, such as ``sub``, and its suffix, such as ``T1w``."""
    *pairs, suffix = without_suffix(PurePosixPath(name).name).split("_")
    found = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if dash:
            found[key] = value
    return found, suffix


def is_mask(name: str) -> bool:
    """Return whether a file's name is that of a BIDS segmentation of a subject."""
    found, suffix = entities(name)
    return is_volume(name) and suffix in MASKS and "sub" in found


def looks_like_bids(names: Sequence[str]) -> bool:
    """Return whether a folder holds segmentations of subjects below ``derivatives``."""
    return any(name.startswith("derivatives/") and is_mask(name) for name in names)


def of_subjects(names: Sequence[str], masks: Sequence[str], pattern: str, read: Callable[[str], bytes]) -> Layout:
    """Return the images of subjects with their masks.

    Args:
        masks: candidates; everything else below ``derivatives`` is left out.
        read: returns a table of structure names.
    """
    images: dict[str, list[str]] = defaultdict(list)
    for name in chosen(names, pattern):
        if not name.startswith("derivatives/") and not is_mask(name) and "sub" in entities(name)[0]:
            images[entities(name)[0]["sub"]].append(name)
    own: dict[str, list[str]] = defaultdict(list)
    orphans: dict[str, tuple[str, str]] = {}
    for mask in filter(is_mask, masks):
        fitting = _fitting(mask, images.get(entities(mask)[0]["sub"], []))
        if len(fitting) == 1:
            own[fitting[0]].append(mask)
        else:
            orphans[mask] = SEVERAL_IMAGES if fitting else NO_IMAGE
    tables = {name for name in (*names, *masks) if name.endswith("dseg.tsv")}
    cases = {}
    for subject, mine in images.items():
        for name in mine:
            cases[name] = _case(name, f"sub-{subject}", own[name], tables, read)
    return Layout(cases, orphans)


def _case(name: str, patient: str, masks: list[str], tables: "set[str]", read: Callable[[str], bytes]) -> Case:
    found = tuple(MaskFile(mask, _structures(mask, tables, read)) for mask in sorted(masks))
    if len(found) > 1 and not all(entities(mask.name)[0].get("label") for mask in found):
        return Case((name,), patient=patient, problem=SEVERAL_MASKS)
    words = [word for mask in found if mask.structures for word in mask.structures.names]
    if len(found) > 1 and len(set(words)) != len(words):
        return Case((name,), patient=patient, problem=SEVERAL_MASKS)
    return Case((name,), found, patient=patient, problem=None if found else NO_MASK)


def _fitting(mask: str, images: Sequence[str]) -> list[str]:
    """Return the images whose entities agree with a mask's."""
    wanted, _ = entities(mask)
    same = {key: value for key, value in wanted.items() if key not in DESCRIBING}
    found = [name for name in images if _agrees(same, entities(name)[0])]
    named = [name for name in found if entities(name)[1] == wanted.get("space")]
    return named if len(found) > 1 and len(named) == 1 else found


def _agrees(wanted: Mapping[str, str], have: Mapping[str, str]) -> bool:
    return all(have.get(key) == value for key, value in wanted.items()) and have.get("ses") == wanted.get("ses")


def _structures(mask: str, tables: "set[str]", read: Callable[[str], bytes]) -> Structures | None:
    """Return a mask's names: of its ``label`` entity, or of the ``_dseg.tsv`` beside it or nearest above it."""
    found, suffix = entities(mask)
    if suffix == "mask":
        return Structures({found["label"]: (1,)}) if found.get("label") else None
    path = PurePosixPath(mask)
    exact = f"{without_suffix(mask)}.tsv"
    candidates = [exact, *(f"{folder}/dseg.tsv".removeprefix("./") for folder in path.parents)]
    for folder in path.parents:
        above = [
            name
            for name in tables
            if PurePosixPath(name).parent == folder and entities(name.removesuffix(".tsv"))[0].items() <= found.items()
        ]
        candidates += above if len(above) == 1 else []
    table = next((name for name in candidates if name in tables), None)
    return None if table is None else _table(table, read)


def _table(name: str, read: Callable[[str], bytes]) -> Structures:
    """Return the names in a table with the columns ``index`` and ``name``; raises DataError for another form."""
    try:
        lines = [line.split("\t") for line in read(name).decode("utf-8-sig").splitlines() if line.strip()]
        index, words = lines[0].index("index"), lines[0].index("name")
        pairs = [(int(line[index]), line[words].strip()) for line in lines[1 : MAX_NAMES + 2]]
    except (UnreadableImage, ValueError, IndexError):
        pairs = []
    good = {word: (number,) for number, word in sorted(pairs) if 0 < number <= MAX_NUMBER}
    if not good or len(pairs) > MAX_NAMES or len({word for _, word in pairs}) != len(pairs):
        raise DataError(
            f"Expected the columns 'index' and 'name', with different names, in {PurePosixPath(name).name!r}.",
            remedy="Correct the table, or name the structures with --structures.",
        )
    return Structures(good)
