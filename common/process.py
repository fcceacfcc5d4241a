"""Protection of a process: no core files, no access to its memory by other processes, no passwords in its environment."""

import ctypes
import functools
import platform
import resource
from collections.abc import Mapping

PR_SET_DUMPABLE = 4
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")


@functools.cache
def libc() -> ctypes.CDLL:
    """Return the C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set a property of this process; raises OSError if the kernel refuses."""
    zero = ctypes.c_ulong(0)
    if libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def protect_memory() -> None:
    """Disable core files, and prevent processes of the same user from attaching to this one or writing its memory.

    A core file would hold keys and patients' images. Processes with CAP_SYS_PTRACE, such as root's, can still attach. On
    systems other than Linux, only core files are disabled.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if platform.system() == "Linux":
        prctl(PR_SET_DUMPABLE, 0)


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without proxies, whose URLs often have a password, for a program that needs no network."""
    return {name: value for name, value in environment.items() if name.lower() not in PROXIES}
