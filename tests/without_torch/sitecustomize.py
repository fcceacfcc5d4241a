"""Makes torch, and everything that needs it, impossible to import in a process, as in a coordinator's image."""

import sys
from importlib.abc import MetaPathFinder

ABSENT = ("torch", "monai", "opacus", "captum", "einops", "nibabel", "gdcm", "pynetdicom")


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return


sys.meta_path.insert(0, Absent())
