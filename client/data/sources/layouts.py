"""Which files of a NIfTI folder belong together, by the conventions that hospitals use.

folder        images and masks of the same names in two folders: ``images`` + ``labels`` or ``masks``, or as the operator says
nnU-Net       ``imagesTr/case_0000.nii.gz`` (a file for each channel), ``labelsTr/case.nii.gz``, names in ``dataset.json``
dataset.json  Decathlon and MONAI: pairs of files listed in ``dataset.json``
BIDS          ``derivatives/**/sub-*_dseg.nii.gz`` or ``_mask.nii.gz`` beside ``sub-*/**/sub-*_T1w.nii.gz``
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from salus.client.data.records import Quarantined
from salus.client.data.structures import Structures

SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz")  # the last two are parts of a pair with a header
CHANNEL = re.compile(r"(.+)_(\d{4})(\.nii(?:\.gz)?|\.img(?:\.gz)?)", re.IGNORECASE)
MASK_FOLDERS = {
    "images": ("labels", "masks"),
    "imagesTr": ("labelsTr",),
    "imagesTs": ("labelsTs",),
    "imagesVal": ("labelsVal",),
}
SPLITS = {"imagesTr": "", "imagesTs": "test", "imagesVal": "val"}
NO_MASK = ("unlabelled", "no mask of this name, or several images that match it")
NO_IMAGE = ("mask-without-image", "no image has the name of this mask")


@dataclass(frozen=True)
class MaskFile:
    """A mask's file; `structures` only if the file has names of its own."""

    name: str
    structures: Structures | None = None


@dataclass(frozen=True)
class Case:
    """One sample's files.

    Args:
        images: a file for each channel.
        label: if the folder itself says it.
        problem: reason and detail why it cannot be used, or None.
    """

    images: tuple[str, ...]
    masks: tuple[MaskFile, ...] = ()
    patient: str = ""
    split: str = ""
    label: str = ""
    problem: tuple[str, str] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All names, images first."""
        return (*self.images, *(mask.name for mask in self.masks))


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Args:
        cases: by the name of the first image.
        orphans: masks without an image, by name, with reason and detail.
        listed: problems with entries of `index`.
        index: the file that lists the others, or empty.
        headers: the other file of each ``.img`` file.
        weightings: the file of b-values beside an image.
        channels: images in one four-dimensional file.
    """

    cases: Mapping[str, Case]
    orphans: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    structures: Structures = field(default_factory=Structures)
    modality: str = ""
    channels: int = 1
    index: str = ""
    listed: Sequence[Quarantined] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    weightings: Mapping[str, str] = field(default_factory=dict)

    @property
    def masks(self) -> frozenset[str]:
        """All files that are masks."""
        return frozenset(mask.name for case in self.cases.values() for mask in case.masks) | set(self.orphans)


def is_volume(name: str) -> bool:
    """Return whether a file's name is that of a NIfTI volume, in whatever case."""
    return name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def without_suffix(name: str) -> str:
    """Return a name without ``.nii``, ``.nii.gz`` and the like."""
    ending = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(ending)]


def plain(names: Iterable[str], pattern: str) -> Layout:
    """Return every volume whose file name matches a pattern, without masks."""
    return Layout({name: Case((name,)) for name in chosen(names, pattern)})


def chosen(names: Iterable[str], pattern: str) -> list[str]:
    """Return the volumes whose file name matches a pattern such as ``*_T1w.nii.gz``; all of them without a pattern."""
    return [
        name for name in names if is_volume(name) and (not pattern or fnmatchcase(PurePosixPath(name).name, pattern))
    ]


def beside(names: Sequence[str], masks: Sequence[str], folder: str, pattern: str) -> Layout:
    """Return images with the masks of the same names in a folder.

    Args:
        masks: names of all masks, below `folder`.
    """
    taken = {name for name in masks if is_volume(name)}
    cases = cases_of([name for name in chosen(names, pattern) if name not in taken])
    places = _Places(list(cases))
    stems = {without_suffix(name): name for name in sorted(taken, key=_preference, reverse=True)}
    found: dict[str, Case] = {}
    used: set[str] = set()
    for first, case in cases.items():
        mask = places.mask_of(first, folder, stems)
        used |= {mask} if mask else set()
        split = SPLITS.get(PurePosixPath(first).parts[0], "")
        masks_of_case = (MaskFile(mask),) if mask else ()
        found[first] = Case(case, masks_of_case, split=split, problem=None if mask else NO_MASK)
    return Layout(found, dict.fromkeys(sorted(taken - used), NO_IMAGE))


def _preference(name: str) -> tuple[int, str]:
    """Return the order of files of one name: ``.nii`` before ``.nii.gz`` before pairs."""
    return [name.lower().endswith(suffix) for suffix in SUFFIXES].index(True), name


def mask_folders(names: Iterable[str]) -> dict[str, str]:
    """Return the folders of images that have a folder of masks beside them, with that folder."""
    folders = {name.split("/", 1)[0] for name in names if "/" in name}
    found = {}
    for images, candidates in MASK_FOLDERS.items():
        mine = [folder for folder in candidates if folder in folders]
        if images in folders and len(mine) == 1:
            found[images] = mine[0]
    return found


def in_folders(names: Sequence[str], folders: Mapping[str, str], pattern: str) -> Layout:
    """Return the images of several folders with the masks of each one's own folder, see `mask_folders`."""
    cases: dict[str, Case] = {}
    orphans: dict[str, tuple[str, str]] = {}
    for images, masks in folders.items():
        part = beside(_below(names, images), _below(names, masks), masks, pattern)
        cases |= part.cases
        orphans |= part.orphans
    others = set(SPLITS) - set(folders)  # test images without masks
    for name in chosen(names, pattern):
        if name.split("/", 1)[0] in others:
            cases[name] = Case((name,), split=SPLITS[name.split("/", 1)[0]], problem=NO_MASK)
    return Layout(cases, orphans)


def _below(names: Iterable[str], folder: str) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def cases_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each case's files by its first: several channels if all files of an nnU-Net folder are named ``case_0000``."""
    found: dict[str, tuple[str, ...]] = {}
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[name.rpartition("/")[0]].append(name)
    for folder, mine in folders.items():
        numbered = folder.rpartition("/")[2] in SPLITS and all(CHANNEL.fullmatch(name) for name in mine)
        groups: dict[str, list[str]] = defaultdict(list)
        for name in sorted(mine):
            groups[unnumbered(name) if numbered else name].append(name)
        found |= {files[0]: tuple(files) for files in groups.values()}
    return found


def unnumbered(name: str) -> str:
    """Return a file's name without an nnU-Net channel number."""
    match = CHANNEL.fullmatch(name)
    return f"{match[1]}{match[3]}" if match else name


class _Places:
    """Where the masks of some images may be: at the same place below the folder, or by name if only one image has it."""

    def __init__(self, images: Sequence[str]) -> None:
        paths = [PurePosixPath(name) for name in images]
        self._names = Counter(path.name for path in paths)
        self._below = Counter(path.parts[1:] for path in paths)  # places without the first folder, such as ``images``

    def mask_of(self, image: str, folder: str, masks: Mapping[str, str]) -> str:
        """Return the name of an image's mask, or nothing.

        Args:
            masks: names of masks by their names without suffix.
        """
        place = PurePosixPath(image)
        places = [image]
        if self._below[place.parts[1:]] == 1 and len(place.parts) > 1:
            places.append("/".join(place.parts[1:]))
        if self._names[place.name] == 1:
            places.append(place.name)
        for name in (f"{folder}/{place}" for place in places):
            for candidate in (name, unnumbered(name)):
                if found := masks.get(without_suffix(candidate)):
                    return found
        return ""
