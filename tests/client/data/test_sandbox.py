"""A payload that runs in the decoding child tries everything it can; each attack succeeds without the layers it is stopped by."""

import os
import platform
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.client.data.attacks import ATTACKS, MARK

from salus.client.data.dicom import isolation
from salus.client.data.dicom.isolation import Child, Decoding
from salus.client.data.dicom.messages import Done, Names
from salus.client.data.sandbox import LAYERS, landlock, seccomp
from salus.client.data.sandbox.syscalls import ALLOWED, FATAL, MAPPING
from salus.common.errors import ConfigError, UnreadableImage

ROLE = "tests.client.data.attacks:Attacks"
POLICY = "min_sites = 5\n"
MEMORY_MB = 512
# As an ordinary user's process is: root's capabilities would hide what stops an attack. It counts the signals that it gets.
VICTIM = """
import ctypes, signal, sys
sys.path[:] = sys.argv[1].split(":")
from salus.client.data.sandbox import drop_capabilities
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
buffer = ctypes.create_string_buffer(b"untouched!!", 11)
drop_capabilities()
print(ctypes.addressof(buffer), flush=True)
sys.stdin.read()
print(buffer.raw.decode(), len(got), flush=True)
"""
needs_linux = pytest.mark.skipif(platform.system() != "Linux", reason="the sandbox is Linux's")
pytestmark = needs_linux


@dataclass
class Victim:
    """A process and a folder that are attacked."""

    process: "subprocess.Popen[str]"
    address: int
    folder: Path

    def child(self, layers: tuple[str, ...]) -> Child:
        target = [self.process.pid, self.address, str(self.folder)]
        return Child(ROLE, {"target": target}, b"", Decoding(layers=layers, memory_mb=MEMORY_MB))

    def unharmed(self) -> bool:
        """End the process and return whether nothing happened to it or to the folder."""
        said, _ = self.process.communicate("", timeout=60)
        names = sorted(path.name for path in self.folder.iterdir())
        policy = self.folder / "policy.toml"
        mode = stat.S_IMODE(policy.stat().st_mode) if policy.exists() else 0
        return (said, names, mode) == ("untouched!! 0\n", ["mine.toml", "policy.toml"], 0o600) and (
            policy.read_text() == POLICY
        )


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "policy.toml").chmod(0o600)
    (tmp_path / "mine.toml").write_text("min_sites = 1\n")
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, ":".join(sys.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield Victim(process, int(process.stdout.readline()), tmp_path)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def succeeded(child: Child, names: list[str]) -> set[str]:
    """Return which attacks succeed in this child; one that ends the child does not."""
    done = set()
    for name in names:
        try:
            child.ask(name, Done)
            done.add(name)
        except UnreadableImage as problem:
            if problem.reason not in ("refused", "crashed", "too-large"):
                raise
    return done


def test_nothing_that_a_payload_tries_succeeds(victim: Victim) -> None:
    with victim.child(LAYERS) as child:
        child.ask("nothing", Done)  # the role works; what follows is refused for what it does
        assert "seccomp" in child.held
        assert succeeded(child, list(ATTACKS)) == set()
    assert victim.unharmed()


def test_the_filter_alone_stops_everything(victim: Victim) -> None:
    with victim.child(("seccomp",)) as child:
        assert succeeded(child, list(ATTACKS)) == set()
    assert victim.unharmed()


ON_FILES = [
    "rename over the policy", "truncate the policy", "remove the policy", "link the policy", "link to the policy by name",
    "make a folder", "make a pipe",
]  # fmt: skip
ON_PROCESSES = ["write the memory of another process", "read the memory of another process", "trace another process"]


@pytest.mark.skipif(landlock.version() < 6, reason="an older Landlock stops less")
def test_landlock_alone_stops_what_changes_files_memory_and_processes(victim: Victim) -> None:
    with victim.child(("landlock",)) as child:
        assert succeeded(child, [*ON_FILES, *ON_PROCESSES, "signal another process"]) == set()
    assert victim.unharmed()


@pytest.mark.parametrize("name", [*ON_FILES, *ON_PROCESSES, "signal another process", "change the policy's mode"])
def test_without_layers_the_attacks_succeed(victim: Victim, name: str) -> None:
    """Else the tests above would prove nothing; this is what the child was before."""
    with victim.child(()) as child:
        assert succeeded(child, [name]) == {name}


def test_a_parent_cannot_be_attached_to_even_without_layers(victim: Victim) -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(b"untouched!!", 11)
    target = [os.getpid(), ctypes.addressof(buffer), str(victim.folder)]
    with Child(ROLE, {"target": target}, b"", Decoding(layers=(), memory_mb=MEMORY_MB)) as child:
        assert succeeded(child, [*ON_PROCESSES, "open the memory of another process"]) == set()
    assert buffer.raw != MARK
    assert buffer.raw == b"untouched!!"


def test_what_the_child_inherits_is_its_pipe_and_no_more(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALUS_PACS_PASSWORD", "secret-of-the-pacs")
    with victim.child(LAYERS) as child:
        inherited = child.ask("inherited", Names)[0].names
        variables = {
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "LC_CTYPE",
            *isolation.KEPT_VARIABLES,
        }
        opened = sorted(name.split(":")[0] for name in inherited if name.startswith(("/", "pipe", "socket", "anon")))
        assert opened == ["/dev/null"] * 3 + ["pipe"] * 2
        # Salus itself sets those of Flower when it is imported.
        assert {name for name in inherited if name.isidentifier() and not name.startswith("FLWR_")} <= variables
        assert len(inherited) == len(opened) + sum(name.isidentifier() for name in inherited)
        assert b"secret" not in Path(f"/proc/{child.process_id}/cmdline").read_bytes()


def test_without_a_filter_nothing_is_decoded_unless_the_operator_accepts(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "tests.client.data.attacks_without_filter:Attacks"
    target = [victim.process.pid, victim.address, str(victim.folder)]
    with pytest.raises(ConfigError, match="decode_without_sandbox"):
        Child(role, {"target": target}, b"", Decoding(memory_mb=MEMORY_MB)).start()
    accepted = Child(role, {"target": target}, b"", Decoding(layers=(), memory_mb=MEMORY_MB))
    with accepted:
        assert accepted.ask("nothing", Done)[0] == Done()


def test_children_end_with_the_process_that_started_them(victim: Victim) -> None:
    code = (
        "import sys; sys.path[:] = sys.argv[1].split(':')\n"
        "from salus.client.data.dicom.isolation import Child, Decoding\n"
        f"child = Child({ROLE!r}, {{'target': [1, 1, '/']}}, b'', Decoding(memory_mb=64))\n"
        "child.start(); print(child.process_id, flush=True); sys.stdin.read()"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code, ":".join(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with started:
        assert started.stdout is not None
        child = int(started.stdout.readline())
        handle = os.pidfd_open(child)
        started.kill()
    import select

    assert select.select([handle], [], [], 60)[0], "the child outlived its parent"
    os.close(handle)


def run_filter(code: bytes, number: int, architecture: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """Interpret a filter as the kernel does."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *(a & (2**64 - 1) for a in arguments))
    steps = list(struct.iter_unpack("<HBBI", code))
    at = value = 0
    while True:
        kind, yes, no, operand = steps[at]
        at += 1
        if kind == seccomp.RETURN:
            return int(operand)
        if kind == seccomp.LOAD:
            value = int.from_bytes(data[operand : operand + 4], "little")
        else:
            holds = {
                seccomp.JUMP_EQUAL: value == operand,
                seccomp.JUMP_AT_LEAST: value >= operand,
                seccomp.JUMP_ANY_BIT: bool(value & operand),
            }[kind]
            at += yes if holds else no


@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
def test_the_filter_allows_the_list_and_nothing_else(machine: str) -> None:
    column, architecture = seccomp.ARCHITECTURES[machine]
    code = seccomp.program(machine, 77)
    assert len(code) // 8 <= 255  # jumps are eight bits wide, and none crosses more than a few steps
    allowed = {row[column] for row in ALLOWED.values()} - {None}
    fatal = {row[column] for row in FATAL.values()} - {None}
    checked = {row[column] for row in MAPPING.values()} | {seccomp.SIGNAL_SELF[column]}
    assert not allowed & fatal
    for number in range(1000):
        verdict = run_filter(code, number, architecture)
        if number in allowed:
            assert verdict == seccomp.ALLOW
        elif number in fatal:
            assert verdict == seccomp.KILL_PROCESS
        elif number not in checked:
            assert verdict == seccomp.DENY
    for number in (row[column] for row in MAPPING.values()):
        assert run_filter(code, number, architecture, (0, 0, 3, 0, 0, 0)) == seccomp.ALLOW
        assert run_filter(code, number, architecture, (0, 0, 7, 0, 0, 0)) == seccomp.DENY
    assert run_filter(code, seccomp.SIGNAL_SELF[column], architecture, (77, 1, 6, 0, 0, 0)) == seccomp.ALLOW
    assert run_filter(code, seccomp.SIGNAL_SELF[column], architecture, (78, 1, 6, 0, 0, 0)) == seccomp.DENY
    assert run_filter(code, 0, architecture ^ 1) == seccomp.KILL_PROCESS
    assert run_filter(code, 0x40000000, architecture) == seccomp.KILL_PROCESS


@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    """Against the headers of this machine, where they are installed: x86-64's own, and the generic table for AArch64."""
    places = {
        "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
        "aarch64": ["/usr/include/asm-generic/unistd.h"],
    }[machine]
    header = next((Path(place) for place in places if Path(place).exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    known = {}
    for line in header.read_text().splitlines():
        parts = line.split()
        if len(parts) >= 3 and parts[1].startswith(("__NR_", "__NR3264_")) and parts[2].isdecimal():
            known[parts[1].replace("__NR3264_", "").replace("__NR_", "")] = int(parts[2])
    column = seccomp.ARCHITECTURES[machine][0]
    tables = {**ALLOWED, **FATAL, **MAPPING, "tgkill": seccomp.SIGNAL_SELF, "seccomp": seccomp.SECCOMP_CALL}
    for name, row in tables.items():
        assert known.get(name, row[column]) == row[column], name
        if row[column] is not None:
            assert name in known or name in ("fstat", "lseek"), name  # the generic table spells these otherwise


@pytest.mark.parametrize(
    ("abi", "fields"),
    [
        (1, [0x1FFF]), (2, [0x3FFF]), (3, [0x7FFF]), (4, [0x7FFF, 3]), (5, [0xFFFF, 3]), (6, [0xFFFF, 3, 3]),
        (9, [0xFFFF, 3, 3]),
    ],
)  # fmt: skip
def test_each_landlock_version_is_asked_for_all_it_knows(abi: int, fields: list[int]) -> None:
    assert list(struct.unpack(f"<{len(fields)}Q", landlock.ruleset(abi))) == fields
