"""Chooses the convention that a NIfTI folder follows, see `layouts`."""

from collections.abc import Callable
from dataclasses import replace

from salus.client.data.sources.base import Files
from salus.client.data.sources.bids import is_mask, looks_like_bids, of_subjects
from salus.client.data.sources.dataset_json import INDEX, listed, modality_of_json, parsed, structures_of
from salus.client.data.sources.layouts import Layout, beside, in_folders, is_volume, mask_folders, plain
from salus.client.data.sources.nifti_counting import counted
from salus.client.data.sources.settings import NiftiSettings
from salus.common.errors import DataError, UnreadableImage


def layout_of(files: Files, options: NiftiSettings) -> Layout:
    """Return what a folder holds.

    Raises:
        DataError: the folder of masks does not exist, or ``dataset.json`` or a table of structures cannot be used.
    """
    names = list(files.names())
    masks = _masks(files, options.masks) if options.masks else []
    return counted(_convention(files, options, names, masks), sorted({*names, *masks}), options.images)


def _convention(files: Files, options: NiftiSettings, names: list[str], masks: list[str]) -> Layout:
    content = parsed(bytes(files.read(INDEX))) if INDEX in names else {}
    structures = structures_of(content)
    if options.masks:
        if any(map(is_mask, masks)) and any(name.startswith("sub-") for name in names):
            return of_subjects(names, masks, options.images, _reader(files))
        layout = beside(names, masks, options.masks, options.images)
    elif isinstance(content.get("training"), list):
        return listed(content, set(names), structures)
    elif looks_like_bids(names):
        below = [name for name in names if name.startswith("derivatives/")]
        return of_subjects(names, below, options.images, _reader(files))
    elif folders := mask_folders(filter(is_volume, names)):
        layout = in_folders(names, folders, options.images)
    else:
        return plain(names, options.images)
    modality, channels = modality_of_json(content)
    return replace(layout, structures=structures, modality=modality, channels=channels)


def _masks(files: Files, folder: str) -> list[str]:
    try:
        return list(files.names(folder))
    except UnreadableImage:
        raise DataError(
            "Expected the folder of masks in the data folder, found no folder of this name.", remedy="Check --masks."
        ) from None


def _reader(files: Files) -> Callable[[str], bytes]:
    return lambda name: bytes(files.read(name, 0, 2**22))
