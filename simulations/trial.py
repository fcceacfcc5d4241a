"""A whole consortium in one folder, as separate processes over TLS on loopback, for the demo, tests and benchmarks.

Every step is the same as in real use: the functions behind `consortium`, `server`, `client` and `dataset`, and daemons
started as `salus server start` and `salus client start`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar
from typing import Protocol as Interface

import psutil

from salus.client.config import init_site
from salus.common.clock import SystemClock
from salus.common.errors import LinkError, RoundError
from salus.common.kit import read_kit
from salus.common.trust import install_kit
from salus.server.admin_client import AdminClient
from salus.server.config import init_server
from salus.server.consortium import Consortium

MARK = ".salus-trial"  # only a folder with this file is ever emptied
BACKSTOP_S = 1800.0  # against a hang; the wait also ends at once if a daemon exits
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1
DAEMON = "from salus.common import lifeline; lifeline.watch(); from salus.__main__ import main; main()"

Found = TypeVar("Found")


class Daemon(Interface):
    """A running daemon that ends when this process does; the same methods as `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


Launcher = Callable[[Sequence[str], Path], Daemon]


class _Interpreter(subprocess.Popen[bytes]):
    """A new Python interpreter with a daemon.

    Its standard input is a pipe that is never written to: it closes when this process dies, see `lifeline`.
    """

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as output:
            super().__init__(
                [sys.executable, "-c", DAEMON, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        if self.stdin is not None:
            self.stdin.close()
        return code


def launch(words: Sequence[str], log: Path, environment: Mapping[str, str] = MappingProxyType({})) -> Daemon:
    """Start `salus` with these arguments in a new interpreter; its output is appended to `log`.

    Args:
        environment: variables beside those of this process.
    """
    return _Interpreter(words, log, environment)


def free_port() -> int:
    """Return a free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def empty(folder: Path) -> None:
    """Empty a folder that an earlier trial made; raises RoundError if it holds anything else."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise RoundError(
                f"The folder {folder.name!r} is not empty and is not an old trial.", remedy="Choose another folder."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


class Trial:
    """A consortium's processes; a context manager that ends them all.

    Args:
        folder: emptied by `empty` before.
        names: names of the sites, in roster order.
        policy: text of every site's ``policy.toml``.
        threads: CPU threads of each site.
        launcher: starts the daemons.
        host: name or address of the coordinator.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        policy: str,
        threads: int = 1,
        launcher: Launcher = launch,
        host: str = "127.0.0.1",
    ) -> None:
        self.folder, self._host = folder.resolve(), host
        self.port = free_port()
        self.coordinator = self.folder / "coordinator"
        self.sites: list[Path] = []
        self._policy, self._threads, self._clock, self._launch = policy, threads, SystemClock(), launcher
        self._processes: dict[Path, Daemon] = {}
        self._found(names)
        self.admin = AdminClient(self.coordinator)

    def _found(self, names: Sequence[str]) -> None:
        consortium = Consortium.create(self.folder / "consortium", "Trial consortium", self._clock)
        consortium.add(
            init_server(self.coordinator, "Trial coordinator", f"https://{self._host}:{self.port}", self._host)
        )
        for name in names:
            self.admit(name)
        self.issue()

    def admit(self, name: str) -> Path:
        """Create a new site, add it to the consortium and return its folder; it takes part after `issue`."""
        number = Consortium(self.folder / "consortium", self._clock).state.next_id
        site = self.folder / f"site-{number}"
        Consortium(self.folder / "consortium", self._clock).add(init_site(site, name))
        (site / "policy.toml").write_text(self._policy)
        (site / "site.toml").write_text(f"reconnect_max_s = 2.0\n[performance]\nthreads = {self._threads}\n")
        if site not in self.sites:
            self.sites.append(site)
        return site

    def issue(self) -> None:
        """Sign a new roster and install the kits at all members; daemons read them at their next start."""
        consortium = Consortium(self.folder / "consortium", self._clock)
        for kit in consortium.issue(self.folder / "kits", days=365):
            install_kit(self.folder / kit.stem, read_kit(kit), self._clock)

    def remove(self, site: Path) -> None:
        """End a site's daemon and its membership; the removal takes effect after `issue`."""
        self.kill(site)
        self.sites.remove(site)
        Consortium(self.folder / "consortium", self._clock).remove(site.name.removeprefix("site-"))

    def __enter__(self) -> "Trial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for member in list(self._processes):
            self._end(member)

    def _end(self, member: Path) -> None:
        process = self._processes.pop(member)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start(self, member: Path) -> None:
        """Start a member's daemon; its output goes to ``daemon.log`` in its folder."""
        role = "server" if member == self.coordinator else "client"
        self._processes[member] = self._launch([role, "start", str(member)], member / "daemon.log")

    def start_missing(self) -> None:
        """Start every daemon that is not running."""
        for member in [self.coordinator, *self.sites]:
            if member not in self._processes:
                self.start(member)

    def start_all(self) -> None:
        """Start every daemon and wait until every site is online."""
        self.start_missing()
        self.wait_online(len(self.sites))

    def kill(self, member: Path) -> None:
        """End a member's daemon with SIGKILL."""
        self._processes[member].kill()
        self._end(member)

    def restart(self) -> None:
        """Restart every daemon with the installed kits, the sites first."""
        for member in [*self.sites, self.coordinator]:
            if member in self._processes:
                self.kill(member)
            self.start(member)

    def stop(self, member: Path) -> None:
        """End a member's daemon with SIGTERM; a site signs off, so that no one waits for it."""
        self._processes[member].send_signal(signal.SIGTERM)
        self._end(member)

    def process_id(self, member: Path) -> int:
        """Return the process id of a member's daemon."""
        return self._processes[member].pid

    def worker_id(self, site: Path) -> int:
        """Return the process id of the process that works for a site; of its daemon if it does not work now."""
        children = psutil.Process(self.process_id(site)).children()
        return children[0].pid if children else self.process_id(site)

    def wait_online(self, count: int, timeout_s: float = BACKSTOP_S) -> None:
        """Wait until this many sites are online; raises LinkError with the end of the daemons' logs."""

        def online() -> bool | None:
            return sum(site["online"] for site in self.admin.get("/status")["sites"]) >= count or None

        self._wait(online, f"{count} sites online", timeout_s)

    def _wait(self, look: Callable[[], Found | None], what: str, timeout_s: float) -> Found:
        """Return the first result of `look` that is not None; a coordinator may be offline for a while.

        Raises:
            LinkError: a daemon has exited, or the time is up; the message has the last line of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            dead = [member for member, process in self._processes.items() if process.poll() is not None]
            if dead:
                raise LinkError(
                    f"{dead[0].name} exited while waiting for {what}: {self.log_tail(dead[0])}",
                    remedy="See its daemon.log.",
                )
            try:
                found = look()
            except LinkError:
                found = None
            if found is not None:
                return found
            time.sleep(POLL_S)
        logs = "; ".join(f"{member.name}: {self.log_tail(member)}" for member in self._processes)
        raise LinkError(f"Waited {timeout_s:.0f} s for {what} ({logs}).", remedy="See the daemon.log files.")

    def log_tail(self, member: Path) -> str:
        """Return the last line of a daemon's output."""
        lines = (member / "daemon.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "no output"

    def submit(self, job: str, *, anyway: bool = False) -> str:
        """Submit a job file's text and return the job's id; with `anyway` even if too few sites can run it."""
        return str(self.admin.post("/jobs", job, anyway=anyway)["job"])

    def wait_for(self, job_id: str, timeout_s: float = BACKSTOP_S) -> dict[str, Any]:
        """Wait for a job to end and return its result; the coordinator may be offline for a while."""

        def result() -> dict[str, Any] | None:
            found: dict[str, Any] = self.admin.get(f"/jobs/{job_id}")
            return None if found["status"] in ("waiting", "running") else found

        return self._wait(result, f"the end of job {job_id}", timeout_s)

    def wait_for_round(self, job_id: str, round_: int, timeout_s: float = BACKSTOP_S) -> None:
        """Wait until a job has finished this many rounds; raises RoundError if it ends earlier."""

        def reached() -> bool | None:
            found = self.admin.get(f"/jobs/{job_id}")
            if len(found["rounds"]) >= round_:
                return True
            if found["status"] not in ("waiting", "running"):
                raise RoundError(
                    f"The job {job_id} ended before round {round_} ({found['status']}): {found['reason']}",
                    remedy="See its events.",
                )
            return None

        self._wait(reached, f"round {round_} of {job_id}", timeout_s)
