"""Files that are in a data folder on purpose and hold no images: they are set aside, and counted apart from refused files."""

from pathlib import PurePosixPath

SET_ASIDE, PART, UNMATCHED = "set-aside", "part-of-refused", "label-without-image"
NOT_REFUSED = frozenset((SET_ASIDE, PART, UNMATCHED))  # listed and counted, but not as files that could not be used
PART_OF_REFUSED = (PART, "a mask or channel of a sample that was refused, or an image that was not chosen")
BY_INTENTION = "a file that accompanies data: a list, a label file, a description, or a file of the operating system"
LISTS = (
    "dicomdir",
    "dirfile",
    "license",
    "readme",
    "copying",
    "notice",
    "changes",
    "makefile",
    "sha256sums",
    "md5sums",
)
NAMES = frozenset((*LISTS, "thumbs.db", "desktop.ini"))
SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".md", ".json", ".toml", ".xlsx", ".pdf", ".html", ".bval", ".bvec"))
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
SYSTEM = (".ds_store", "._")  # of macOS, beside every file that it copies


def accompanies(name: str) -> bool:
    """Return whether a file, by its name, accompanies data."""
    path = PurePosixPath(name.lower())
    return path.name in NAMES or path.suffix in SUFFIXES or path.name.startswith(SYSTEM)


def is_archive(name: str) -> bool:
    """Return whether a file, by its name, is an archive with files of its own."""
    return name.lower().endswith(ARCHIVES)


def why_unused(name: str) -> tuple[str, str]:
    """Return reason and detail for a file that no reader takes."""
    if accompanies(name):
        return SET_ASIDE, BY_INTENTION
    if is_archive(name):
        return "archive", "an archive within a folder is not opened"
    return "other-kind", "not a file of this kind of data, and not part of any sample"
