"""Makes a process as the coordinator's image and its systemd unit do: torch cannot be imported, memory cannot become code."""

import ctypes
import sys
from importlib.abc import MetaPathFinder

ABSENT = ("torch", "monai", "opacus", "captum", "einops", "nibabel", "gdcm", "pynetdicom")
PR_SET_MDWE, REFUSE_EXEC_GAIN = (
    65,
    1,
)  # what MemoryDenyWriteExecute=true does from Linux 6.3 on; older kernels ignore it


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return


sys.meta_path.insert(0, Absent())
ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)
