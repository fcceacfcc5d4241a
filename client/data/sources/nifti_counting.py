"""What beside images and masks belongs to a NIfTI folder: headers of pairs, tables of b-values, and volumes left over."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from salus.client.data.sources.layouts import Layout, is_volume, without_suffix

HEADERS = {".img": ".hdr", ".img.gz": ".hdr.gz"}
NOT_USED = ("not-used", "the layout of the folder does not say what this file is: neither image nor mask")
NO_VOXELS = ("header-without-image", "a header without its .img file")
NO_HEADER = ("image-without-header", "an .img file without its .hdr file")


def headers_of(names: Iterable[str]) -> dict[str, str]:
    """Return the header of each ``.img`` file that has one, whatever the case of their suffixes."""
    listed = list(names)
    lower = {name.lower(): name for name in listed if name.lower().endswith((".hdr", ".hdr.gz"))}
    found: dict[str, str] = {}
    for name in filter(is_volume, listed):
        for image, header in HEADERS.items():
            if name.lower().endswith(image):
                stem = name[: -len(image)].lower()
                mine = lower.get(stem + header) or lower.get(f"{stem}.hdr") or lower.get(f"{stem}.hdr.gz")
                found |= {name: mine} if mine else {}
    return found


def weightings_of(names: Iterable[str]) -> dict[str, str]:
    """Return the file of b-values beside each image that has one."""
    listed = list(names)
    tables = {name.rpartition(".")[0]: name for name in listed if name.lower().endswith((".bval", ".bvals"))}
    return {name: tables[stem] for name in filter(is_volume, listed) if (stem := without_suffix(name)) in tables}


def counted(layout: Layout, names: Sequence[str], pattern: str) -> Layout:
    """Return a layout that knows the headers of pairs, and refuses volumes that the convention leaves out.

    Args:
        names: all files of the folder.
        pattern: of the images that the operator chose; what it leaves out is left out on purpose, as are derivatives.
    """
    headers = headers_of(names)
    used = {name for case in layout.cases.values() for name in case.files} | set(layout.orphans)
    used |= {item.key for item in layout.listed}
    orphans = dict(layout.orphans)
    cases = dict(layout.cases)
    for name in names:
        lower = name.lower()
        if PurePosixPath(name).name.startswith("."):
            continue
        if lower.endswith((".hdr", ".hdr.gz")) and name not in headers.values():
            orphans[name] = NO_VOXELS
        elif is_volume(name) and lower.endswith(tuple(HEADERS)) and name not in headers:
            orphans[name] = NO_HEADER
            cases.pop(name, None)
        elif is_volume(name) and name not in used and not pattern and not name.startswith("derivatives/"):
            orphans[name] = NOT_USED
    return replace(layout, cases=cases, orphans=orphans, headers=headers, weightings=weightings_of(names))
