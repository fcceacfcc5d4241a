"""Landlock: the kernel's own sandbox for unprivileged processes, here without any exception.

Source: Linux ``Documentation/userspace-api/landlock.rst``. Older kernels know fewer rights; every known right is dropped:

    ABI 1 (5.13)  open, read, write, execute, make, remove        ABI 4 (6.7)   TCP
    ABI 2 (5.19)  rename and link between folders                 ABI 5 (6.10)  ioctl on devices
    ABI 3 (6.2)   truncate                                        ABI 6 (6.12)  signals and abstract sockets

From the first one on, a process inside cannot trace or write the memory of one outside.
"""

import ctypes
import platform
import struct

from salus.common.process import libc, prctl

PR_SET_NO_NEW_PRIVS = 38
CREATE_RULESET, RESTRICT_SELF = 444, 446  # the same numbers on every architecture
VERSION_FLAG = 1
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP, SCOPES = 0b11, 0b11


def version() -> int:
    """Return the kernel's Landlock ABI, 0 where it offers none."""
    if platform.system() != "Linux":
        return 0
    return max(0, int(libc().syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def ruleset(abi: int) -> bytes:
    """Return ``struct landlock_ruleset_attr`` that handles every right which this ABI, or one before it, knows."""
    files = FILE_RIGHTS[max(known for known in FILE_RIGHTS if known <= abi)]
    fields = [files, *([TCP] if abi >= 4 else []), *([SCOPES] if abi >= 6 else [])]
    return struct.pack(f"<{len(fields)}Q", *fields)


def restrict() -> int:
    """Drop every right of this thread and what it starts, permanently; returns the ABI, 0 if the kernel offers none.

    Call it before a second thread starts: running threads keep their rights.

    Raises:
        OSError: the kernel offers Landlock and refused it.
    """
    abi = version()
    if abi == 0:
        return 0
    attributes = ruleset(abi)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    handle = libc().syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if handle < 0 or libc().syscall(RESTRICT_SELF, handle, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock")
    libc().close(handle)
    return abi
