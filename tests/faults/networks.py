"""Hosts in network namespaces behind one switch that tests can make slow, lossy or silent. Only root on Linux may make them.

Every name begins with `PREFIX` and the id of the test process; what a killed test run left behind is removed by the next one.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests import processes

PREFIX = "salus"
NEEDED = "needs root, Linux and iproute2 (apt-get install iproute2), to make network namespaces"
SWITCH = Path(__file__).with_name("switch.py")
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
SIOCETHTOOL, ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO = 0x8946, 0x17, 0x1F, 0x24


def ip(*words: str, check: bool = True) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=check, capture_output=True)


def enter(namespace: str) -> None:
    """Move this thread into a namespace; before others are started."""
    number = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(number, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(number)


def in_place_of(files: Mapping[str, Path]) -> None:
    """Let this process, and no other, see other files at these paths."""
    libc = ctypes.CDLL(None, use_errno=True)
    calls = [(libc.unshare, (CLONE_NEWNS,)), (libc.mount, (None, b"/", None, MS_REC | MS_PRIVATE, None))]
    calls += [(libc.mount, (str(file).encode(), path.encode(), None, MS_BIND, None)) for path, file in files.items()]
    for call, words in calls:
        if call(*words):
            raise OSError(ctypes.get_errno(), "cannot make a mount namespace")


@dataclass
class Network:
    """Hosts by name, each with one address, and the state of their lines."""

    folder: Path
    hosts: tuple[str, ...]
    _state: dict[str, object] = field(default_factory=dict)
    _cut: set[str] = field(default_factory=set)

    @property
    def _mark(self) -> str:
        return f"{PREFIX}{os.getpid()}"

    def namespace(self, host: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self._mark}-{host}"

    def address(self, host: str) -> str:
        """Return a host's address."""
        return f"10.99.0.{self.hosts.index(host) + 1}"

    def port(self, host: str) -> str:
        """Return the switch's end of a host's line."""
        return f"p{self.hosts.index(host) + 1}"

    def reaches(self, one: str, other: str, wait_s: float = 2.0) -> bool:
        """Return whether a packet from one host reaches another, and its answer comes back."""
        found: list[bool] = []

        def knock() -> None:
            enter(self.namespace(one))
            try:
                socket.create_connection((self.address(other), 9), wait_s).close()
            except ConnectionRefusedError:  # an answer: nobody listens there
                found.append(True)
            except OSError:
                found.append(False)

        in_thread(knock)
        return found == [True]

    def inside(self, host: str, *words: str) -> list[str]:
        """Return a command that runs inside a host."""
        return ["ip", "netns", "exec", self.namespace(host), *words]

    def set(self, **state: object) -> None:
        """Change all lines: `delay_s` in each direction, `loss` and `twice` as shares of frames."""
        self._state.update(state)
        self._write()

    def cut(self, host: str) -> None:
        """Drop everything from and to a host, in silence."""
        self._cut.add(self.port(host))
        self._write()

    def mend(self, host: str) -> None:
        """End a cut."""
        self._cut.discard(self.port(host))
        self._write()

    @property
    def state_file(self) -> Path:
        """What the switch reads."""
        return self.folder / "switch.json"

    def _write(self) -> None:
        beside = self.state_file.with_suffix(".part")
        beside.write_text(json.dumps({**self._state, "cut": sorted(self._cut)}))
        beside.replace(self.state_file)


@contextlib.contextmanager
def network(folder: Path, hosts: Sequence[str], seed: int = 0) -> Iterator[Network]:
    """Make a network; everything is removed at the end, also after a failure."""
    if (
        os.geteuid() != 0
        or not Path("/run").exists()
        or subprocess.run(["which", "ip"], capture_output=True).returncode
    ):
        pytest.skip(NEEDED)
    remove_stale()
    made, switch = Network(folder, tuple(hosts)), "switch"
    names = [made.namespace(name) for name in (switch, *hosts)]
    made._write()
    with contextlib.ExitStack() as stack:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip(NEEDED)
            stack.callback(ip, "netns", "del", name, check=False)
            ip("-n", name, "link", "set", "lo", "up")
        for host in hosts:
            inner, port = made.namespace(host), made.port(host)
            ip(
                "-n",
                made.namespace(switch),
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                inner,
            )
            ip("-n", inner, "addr", "add", f"{made.address(host)}/24", "dev", "eth0")
            for namespace, link in ((inner, "eth0"), (made.namespace(switch), port)):
                without_offload(namespace, link)
                ip("-n", namespace, "link", "set", link, "up")
        ports = ",".join(made.port(host) for host in hosts)
        command = [*made.inside(switch, sys.executable, "-S", str(SWITCH)), ports, str(made.state_file), str(seed)]
        running = stack.enter_context(processes.running(command, stdout=subprocess.PIPE))
        assert running.stdout is not None
        stack.callback(running.stdout.close)
        assert running.stdout.readline() == b"forwarding\n"
        yield made


def without_offload(namespace: str, link: str) -> None:
    """Let a host compute its own checksums and cut its own segments: frames that a raw socket forwards are as on a wire."""

    def change() -> None:
        enter(namespace)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for command in (ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_STXCSUM):
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP", link.encode(), ctypes.addressof(value)) + bytes(16)
                fcntl.ioctl(any_socket, SIOCETHTOOL, request)

    in_thread(change)


def in_thread(work: Callable[[], None]) -> None:
    """Run something in a thread of its own, whose namespace may differ; raises what it raises."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


def remove_stale() -> None:
    """Remove the namespaces of test processes that no longer exist."""
    for path in Path("/run/netns").glob(f"{PREFIX}*-*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            ip("netns", "del", path.name, check=False)
