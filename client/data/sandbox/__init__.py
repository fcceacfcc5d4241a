"""The decoding child's sandbox: inside it a process can use its pipe, its memory and its clock, and nothing else.

    layer       stops                                                              where
    seccomp     every system call but about forty                                  Linux on x86-64 and AArch64; required
    landlock    files, TCP, signals and memory of others, whatever the call        Linux 5.13 and later, more with each ABI
    namespace   users, network and IPC objects of the machine                      where unprivileged user namespaces are allowed
    limits      descriptors, file sizes, processes, memory                         everywhere

Seccomp alone refuses everything listed; the other layers still hold if the filter has a gap. A compromised decoder can still
give wrong answers about its files, and use up its own time and memory. Not proven: that the kernel has no errors in
the calls that stay allowed, and that there is no side channel through the processor's caches.
"""

import contextlib
import errno
import resource
import signal
import struct

from salus.client.data.sandbox import landlock, seccomp
from salus.common.process import libc, prctl, protect_memory

LAYERS = ("namespace", "landlock", "seccomp")
NEW_USER, NEW_IPC, NEW_NET = 0x10000000, 0x08000000, 0x40000000
CAPABILITY_VERSION = 0x20080522
PR_SET_PDEATHSIG = 1


class SandboxUnavailableError(Exception):
    """The kernel does not offer the required layer, or refused it."""


def lock_down(memory_bytes: int, layers: tuple[str, ...] = LAYERS) -> tuple[str, ...]:
    """Sandbox this process permanently, and return the active layers.

    Args:
        memory_bytes: memory that it may use beyond its current use.
        layers: which layers to use; fewer than all are for tests, and none only if an operator asks for it.

    Raises:
        SandboxUnavailableError: `layers` names seccomp and it is not available.
    """
    held = []
    most_bytes = _address_space_bytes() + memory_bytes  # while /proc can still be read
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, the kernel kills this process and not the site
    if "namespace" in layers and libc().unshare(NEW_USER | NEW_IPC | NEW_NET) == 0:
        held.append("namespace")
    drop_capabilities()
    protect_memory()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the above, which may reset it
    try:
        if "landlock" in layers and (abi := landlock.restrict()):
            held.append(f"landlock {abi}")
        set_limits(most_bytes)
        if "seccomp" in layers:
            if not seccomp.available():
                raise SandboxUnavailableError("this kernel or processor offers no seccomp filter that Salus supports")
            seccomp.install()
            held.append("seccomp")
    except OSError as problem:
        raise SandboxUnavailableError(f"the kernel refused it ({problem.strerror})") from None
    if "seccomp" in layers and not _refused():
        raise SandboxUnavailableError("the kernel accepted the filter but does not enforce it")
    return tuple(held)


def drop_capabilities() -> None:
    """Drop every capability, which root has beyond a plain user."""
    header = struct.pack("<Ii", CAPABILITY_VERSION, 0)
    libc().capset(header, bytes(24))


def set_limits(most_bytes: int) -> None:
    """Forbid new descriptors, processes and file contents, and limit the total memory."""
    for kind, most in (
        # None at all: with a limit of those in use, code here could close one and open another.
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, most_bytes),
    ):
        resource.setrlimit(kind, (most, most))


def _address_space_bytes() -> int:
    """Return what this process has mapped now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 * 2**30  # no such file on systems other than Linux


def _refused() -> bool:
    """Try one call that always succeeds without the filter."""
    return int(libc().getuid()) == -errno.EPERM  # the C library passes on what the kernel returned
