"""Where samples come from. A kind of data is one file that implements `Reader`; a new one needs a test and a line below."""

import itertools
from collections import Counter
from pathlib import Path

from salus.client.data.dicom.isolation import Decoding
from salus.client.data.sources.base import Source
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.opened import Direct
from salus.client.data.sources.remote import Remote
from salus.client.data.sources.settings import SourceOptions, settings_for
from salus.common.errors import DataError
from salus.common.lock import NAME as LOCK
from salus.common.registry import Registry

GUESSED_FROM = 2000  # files
NO_DATA = ("LICENSE", "README", "SHA256SUMS", "COPYING", "NOTICE", "CHANGES", "Makefile")

# What an import keeps beside the images of its store.
OWN_FILES = {
    "imported": frozenset(
        (LOCK, "progress.jsonl", "labels.csv", "labels.partial", "report.json", "report.partial", "searched.jsonl")
    )
}

SOURCES = Registry(
    "data source",
    "salus.sources",
    {
        "dicom": "salus.client.data.sources.dicom_folder:DicomFolder",
        "images": "salus.client.data.sources.image_folder:ImageFolder",
        "imported": "salus.client.data.sources.imported:ImportedFolder",
        "medmnist": "salus.client.data.sources.medmnist:MedMnist",
        "nifti": "salus.client.data.sources.nifti_folder:NiftiFolder",
        "table": "salus.client.data.sources.table:Table",
    },
)


def open_source(kind: str, root: Path, options: SourceOptions, decoding: Decoding | None = None) -> Source:
    """Return the source of this kind over `root`.

    Args:
        decoding: how to decode in a sandboxed child process, for data made by others; None to decode in this process.

    Raises:
        DataError: an unknown kind, a missing root, or options that the source does not know or cannot work with.
        ConfigError: a child cannot be sandboxed on this machine.
    """
    if not root.exists():
        raise DataError(f"Expected data at {root.name!r}, found nothing.", remedy="Check the path.")
    settings = settings_for(kind, options)
    files = LocalFiles(root, settings, OWN_FILES.get(kind, frozenset()))
    if decoding is not None:
        return Remote(SOURCES.reference(kind, error=DataError), files, settings, decoding)
    return Direct(SOURCES.get(kind, error=DataError), files, settings)


def guess_kind(root: Path) -> str:
    """Return the kind of source that `root` looks like; raises DataError if there is none."""
    if root.suffix == ".npz" or (root.is_dir() and any(root.glob("*.npz"))):
        return "medmnist"
    if root.suffix == ".csv" or (root.is_dir() and any(root.glob("*.data"))):
        return "table"
    if root.is_dir():
        found = Counter(filter(None, map(_kind_of, itertools.islice(root.rglob("*"), GUESSED_FROM))))
        if found:
            return found.most_common(1)[0][0]
        if any(root.glob("*.csv")):
            return "table"
    raise DataError(
        f"Cannot determine the kind of data in {root.name!r}.",
        remedy=f"Give the folder of the data, or name the kind: --kind {'|'.join(SOURCES.names())}.",
    )


def _kind_of(path: Path) -> str:
    """Return the kind of data that a file's name suggests; empty for a folder, and for files that accompany data."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", ".img", ".img.gz")):
        return "nifti"
    if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        return "images"
    dicom = path.suffix.lower() in (".dcm", "") and path.name not in NO_DATA
    return "dicom" if dicom and path.is_file() else ""
