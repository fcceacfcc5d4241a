"""A seccomp filter that leaves a process its pipe, its memory and its clock, and refuses every other system call.

The filter is classic BPF, written out here and installed through ctypes, so that no native library is needed. Source: Linux
``Documentation/userspace-api/seccomp_filter.rst``.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Mapping

from salus.client.data.sandbox.syscalls import ALLOWED, FATAL, MAPPING, SIGNAL_SELF
from salus.common.process import libc, prctl

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
SECCOMP_CALL = (317, 277)
PR_SET_NO_NEW_PRIVS = 38
SET_MODE_FILTER, FLAG_TSYNC = 1, 1
X32_BIT = 0x40000000  # x86-64 kernels may offer a second table of calls under the same architecture
ALLOW, KILL_PROCESS, DENY = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last one answers EPERM
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
PROT_EXEC = 4


def available() -> bool:
    """Return whether this machine's architecture and kernel can take the filter."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        return False
    column, _ = ARCHITECTURES[platform.machine()]
    action = ctypes.c_uint32(KILL_PROCESS)
    return int(libc().syscall(SECCOMP_CALL[column], 2, 0, ctypes.byref(action))) == 0  # SECCOMP_GET_ACTION_AVAIL


def program(machine: str, process: int) -> bytes:
    """Return the filter for one architecture.

    Args:
        machine: as `platform.machine` names it.
        process: id of the process that may signal itself.
    """
    column, architecture = ARCHITECTURES[machine]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_AT_LEAST, 0, 1, X32_BIT),
        (RETURN, 0, 0, KILL_PROCESS),
    ]
    for table, verdict in ((ALLOWED, ALLOW), (FATAL, KILL_PROCESS)):
        for number in _numbers(table, column):
            steps += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, verdict)]
    for number in _numbers(MAPPING, column):
        steps += [
            (JUMP_EQUAL, 0, 4, number),
            (LOAD, 0, 0, ARGUMENTS_AT + 8 * 2),  # the low half of `prot`; both architectures are little-endian
            (JUMP_ANY_BIT, 0, 1, PROT_EXEC),
            (RETURN, 0, 0, DENY),
            (RETURN, 0, 0, ALLOW),
        ]
    steps += [
        (JUMP_EQUAL, 0, 4, SIGNAL_SELF[column]),
        (LOAD, 0, 0, ARGUMENTS_AT),
        (JUMP_EQUAL, 0, 1, process),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DENY),
        (RETURN, 0, 0, DENY),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _numbers(table: Mapping[str, tuple[int | None, int | None]], column: int) -> list[int]:
    return [number for row in table.values() if (number := row[column]) is not None]


def install() -> None:
    """Install the filter on every thread of this process; it cannot be removed.

    Raises:
        OSError: the kernel refused it.
    """
    machine = platform.machine()
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    call = SECCOMP_CALL[ARCHITECTURES[machine][0]]
    if libc().syscall(call, SET_MODE_FILTER, FLAG_TSYNC, filter_) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
