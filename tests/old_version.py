"""The link of Salus as it was with version 1 of the protocol, imported beside the present one as the package `salus_v1`.

The files in `tests/fixtures/link-1` are those of commit 1a53d70, unchanged. Whatever they import of the files that are not
there comes from the present Salus; among themselves they import each other.
"""

import importlib
import importlib.abc
import importlib.machinery
import re
import sys
from pathlib import Path
from types import ModuleType

FILES = Path(__file__).parent / "fixtures" / "link-1"
PACKAGE = "salus_v1"
COMMIT = "1a53d70"
THERE = sorted(str(path.relative_to(FILES).with_suffix("")).replace("/", ".") for path in FILES.rglob("*.py"))
OWN = re.compile(rf"^from salus\.({'|'.join(map(re.escape, THERE))}) import", re.MULTILINE)


class Loader(importlib.abc.SourceLoader):
    """Reads a file of the fixture; only the names of the modules that it imports are changed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        text = Path(str(path)).read_text()
        return OWN.sub(rf"from {PACKAGE}.\1 import", text).encode()

    def path_stats(self, path: str | bytes) -> dict[str, float]:
        raise OSError  # no bytecode is kept: it would stand beside the fixture


class Finder(importlib.abc.MetaPathFinder):
    """Finds `salus_v1` and its modules."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        head, _, rest = fullname.partition(".")
        if head != PACKAGE:
            return None
        file = FILES / f"{rest.replace('.', '/')}.py"
        if rest and file.exists():
            return importlib.machinery.ModuleSpec(fullname, Loader(file), origin=str(file))
        return importlib.machinery.ModuleSpec(fullname, None, is_package=True)


def old(name: str) -> ModuleType:
    """Return a module of before, such as ``client.link``."""
    assert name in THERE
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    return importlib.import_module(f"{PACKAGE}.{name}")
