"""What a decoder that was taken over would try, as a role of the child: each attack runs after the child has locked itself in."""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence

from salus.client.data.dicom.channel import Buffer
from salus.client.data.dicom.decoder_process import Ask
from salus.client.data.dicom.messages import Answer, Done, Names, Operation
from salus.client.data.sandbox.seccomp import ARCHITECTURES
from salus.client.data.sandbox.syscalls import ALLOWED, FATAL
from salus.common.errors import UnreadableImage

LIBC = ctypes.CDLL(None, use_errno=True)
COLUMN = ARCHITECTURES.get(os.uname().machine, (0, 0))[0]
MARK = b"overwritten"


class Target:
    """Whom to attack: a process with a buffer, and a folder with ``policy.toml`` and ``mine.toml``."""

    def __init__(self, process: int, address: int, folder: str) -> None:
        self.process, self.address, self.folder = process, address, folder
        self.policy, self.mine = f"{folder}/policy.toml", f"{folder}/mine.toml"


class _Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _called(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _raw(name: str, *arguments: object) -> None:
    number = {**ALLOWED, **FATAL}[name][COLUMN]
    assert number is not None
    _called(LIBC.syscall(number, *arguments))


def _memory(name: str) -> Callable[[Target], None]:
    def attack(target: Target) -> None:
        buffer = ctypes.create_string_buffer(MARK, len(MARK))
        ours = _Span(ctypes.addressof(buffer), len(MARK))
        theirs = _Span(target.address, len(MARK))
        zero = ctypes.c_ulong(0)
        one = ctypes.c_ulong(1)
        _raw(name, target.process, ctypes.byref(ours), one, ctypes.byref(theirs), one, zero)

    return attack


def _proc_mem(target: Target) -> None:
    with open(f"/proc/{target.process}/mem", "r+b", buffering=0) as file:
        file.seek(target.address)
        file.write(MARK)


def _overwritten(target: Target) -> None:
    with open(target.policy, "wb") as file:
        file.write(MARK)


def _executable(target: Target) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def _made_executable(target: Target) -> None:
    _called(LIBC.mprotect(ctypes.c_void_p(id(MARK) // 4096 * 4096), ctypes.c_size_t(4096), 7))


def _forked(target: Target) -> None:
    if os.fork() == 0:
        os._exit(0)


def _threaded(target: Target) -> None:
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        raise OSError from None


def _kill_self_elsewhere(target: Target) -> None:
    _called(LIBC.syscall((234, 131)[COLUMN], target.process, target.process, signal.SIGUSR1))


ATTACKS: dict[str, Callable[[Target], object]] = {
    "write the memory of another process": _memory("process_vm_writev"),
    "read the memory of another process": _memory("process_vm_readv"),
    "open the memory of another process": _proc_mem,
    "trace another process": lambda t: _raw("ptrace", 16, t.process, 0, 0),
    "signal another process": lambda t: os.kill(t.process, signal.SIGUSR1),
    "signal another thread": _kill_self_elsewhere,
    "signal every process": lambda t: os.kill(-1, 0),
    "limit another process": lambda t: resource.prlimit(t.process, resource.RLIMIT_NOFILE, (64, 64)),
    "name another process": lambda t: _raw("pidfd_open", t.process, 0),
    "rename over the policy": lambda t: os.rename(t.mine, t.policy),
    "overwrite the policy": _overwritten,
    "truncate the policy": lambda t: os.truncate(t.policy, 0),
    "remove the policy": lambda t: os.unlink(t.policy),
    "link the policy": lambda t: os.link(t.policy, f"{t.folder}/linked"),
    "link to the policy by name": lambda t: os.symlink(t.policy, f"{t.folder}/symbolic"),
    "change the policy's mode": lambda t: os.chmod(t.policy, 0o777),  # noqa: S103
    "change the policy's time": lambda t: os.utime(t.policy, (1, 1)),
    "read the policy": lambda t: os.open(t.policy, os.O_RDONLY),
    "look at the policy": lambda t: os.stat(t.policy),
    "list the folder": lambda t: os.listdir(t.folder),
    "make a folder": lambda t: os.mkdir(f"{t.folder}/made"),
    "make a pipe": lambda t: os.mkfifo(f"{t.folder}/pipe"),
    "open a socket": lambda t: socket.socket(),
    "open a local socket": lambda t: socket.socket(socket.AF_UNIX),
    "fork": _forked,
    "start a thread": _threaded,
    "run a program": lambda t: os.execv("/bin/true", ["true"]),  # noqa: S606
    "map executable memory": _executable,
    "make memory executable": _made_executable,
    "raise a limit": lambda t: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "allow dumps again": lambda t: _called(LIBC.prctl(4, 1, 0, 0, 0)),
    "take back a capability": lambda t: os.setuid(0),
    "mount": lambda t: _raw("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "enter a namespace": lambda t: _raw("unshare", 0x10000000),
    "load a kernel program": lambda t: _raw("bpf", 0, None, 0),
    "use io_uring": lambda t: _raw("io_uring_setup", 1, ctypes.create_string_buffer(200)),
    "use a key": lambda t: _raw("keyctl", 0, -3, 1),
    "handle page faults": lambda t: _raw("userfaultfd", 1),
    "make a file in memory": lambda t: _raw("memfd_create", b"x", 0),
    "measure another process": lambda t: _raw(
        "perf_event_open", ctypes.create_string_buffer(128), t.process, -1, -1, 0
    ),
    "take memory beyond the limit": lambda t: bytearray(2**31),
}


class Attacks:
    """The role: an operation names an attack; the answer is `Done` if it succeeded. Another one tells what was inherited."""

    def __init__(self, settings: str, secret: bytes, ask: Ask) -> None:
        self._target = Target(*json.loads(settings)["target"])
        opened = [
            os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")[:-1]
        ]  # the last is the list's
        self._inherited = (*os.environ, *opened)

    def answer(self, operation: Operation, data: bytearray) -> tuple[Answer, Sequence[Buffer]]:
        if operation.name == "inherited":
            return Names(names=self._inherited), []
        if operation.name != "nothing":
            try:
                ATTACKS[operation.name](self._target)
            except (OSError, ValueError, MemoryError):  # as Python names what the kernel refused
                raise UnreadableImage("refused", operation.name) from None
        return Done(), []
