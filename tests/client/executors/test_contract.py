"""Both places of work behave alike: a child process here, and a job of a cluster, whose commands are stubs."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.processes import ended, running, start, wait_until

from salus.client.executors import base, slurm, worker
from salus.client.executors.base import SESSION_S, UNUSED_S, Backend, Executor, Listener, Lost, NotStarted
from salus.client.executors.frames import EVENT, PROGRESS, READY, REPLY, Frame, frame_of
from salus.client.executors.process import ProcessBackend
from salus.client.executors.settings import ExecutorSettings
from salus.client.executors.slurm import SlurmBackend
from salus.client.executors.stopped import StoppedJobs
from salus.common.clock import ManualClock, SystemClock
from salus.common.errors import ConfigError, LedgerError, Refused
from salus.common.packets import Request, header_of, reply_of

ROOT = Path(__file__).parents[3]
LIGHT = Path(__file__).with_name("light_worker.py")
MINUTES = 10.0
STUBS = {
    "sbatch": """
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
(here / "sbatch.json").write_text(json.dumps(sys.argv[1:]))
at = next(number for number, word in enumerate(sys.argv) if word.endswith("work.sh"))
none = subprocess.DEVNULL
job = subprocess.Popen(["/bin/sh", *sys.argv[at:]], stdin=none, stdout=none, stderr=none, start_new_session=True)
print(f"{job.pid};stub")
""",
    "squeue": """
import pathlib, sys
number = next(word for word in sys.argv if word.startswith("--jobs=")).removeprefix("--jobs=")
try:
    state = pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
except OSError:
    state = "Z"
if state == "Z":
    sys.exit("slurm_load_jobs error: Invalid job id specified")
print("RUNNING")
""",
    "scancel": """
import contextlib, os, signal, sys
with contextlib.suppress(ProcessLookupError):
    os.kill(int(sys.argv[1]), signal.SIGKILL)
""",
}


def light(words: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return start([sys.executable, LIGHT, *words], pass_fds=(descriptor,), env={**os.environ, **environment})


class World:
    """An executor with what it told."""

    def __init__(
        self, folder: Path, backend: Backend, clock: ManualClock | SystemClock, stuck_minutes: float = 0.0
    ) -> None:
        self.folder, self.events = folder, list[tuple[str, object]]()
        self.steps = list[tuple[str, int]]()
        listener = Listener(
            lambda kind, fields: self.events.append((kind, fields)),
            lambda step, percent: self.steps.append((step, percent)),
            lambda _: None,
        )
        self.executor = Executor(folder, backend, MINUTES, clock, listener, stuck_minutes)

    def ask(self, blob: bytes, job: str = "job-1") -> bytes:
        header, answer = self.executor.ask(job, header_of(Request(kind="train", job_id=job, round=2)), blob)
        assert reply_of(header).kind == "ok"
        return answer

    def seen(self, what: str) -> int:
        path = self.folder / what
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture(params=["process", "slurm"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    folder = tmp_path / "a site's folder; $(touch x)"
    folder.mkdir()
    backend: Backend = ProcessBackend(folder, launch=light)
    if request.param == "slurm":
        stub_commands(tmp_path / "bin", monkeypatch)
        python = tmp_path / "bin" / "python"  # instead of ``python -P -m salus.client.executors.worker``
        python.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" "{LIGHT}" "$@"\n')
        python.chmod(0o755)
        backend = SlurmBackend(folder, ExecutorSettings(kind="slurm", python=str(python), options=("--partition=gpu",)))
    made = World(folder, backend, SystemClock())
    yield made
    made.executor.close()


def stub_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "LOOK_S", 0.0)


def test_one_worker_answers_every_request_and_tells_what_happened(world: World) -> None:
    assert not world.executor.working
    assert world.ask(b"report") == b"reportreport"
    big = bytes(3_000_000)
    assert world.ask(big) == big * 2
    assert world.ask(b"") == b""
    assert world.events == [("trained", {"job": "job-1", "round": 2})]
    assert world.steps == [("training", 25)]
    world.executor.look()
    assert (world.seen("starts"), world.seen("requests"), world.seen("looks")) == (1, 3, 2)


@pytest.mark.parametrize("way", [b"die", b"leave"])
def test_a_worker_that_ends_costs_one_request(world: World, way: bytes) -> None:
    world.ask(b"first")
    with pytest.raises(Lost, match="ended before it could answer"):
        world.ask(way)
    assert [kind for kind, _ in world.events] == ["worker-ended"]
    assert world.ask(b"again") == b"againagain"
    assert world.seen("starts") == 2


def test_the_operator_stops_a_job_while_it_works_and_only_that_job(world: World) -> None:
    stopped = StoppedJobs(world.folder)

    def stop() -> None:
        wait_until(lambda: world.seen("hangs") == 1, "the work")
        stopped.add("job-1")

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Refused, match="operator of this site has stopped"):
        world.ask(b"hang")
    assert not world.executor.working
    with pytest.raises(Refused, match="has stopped this job"):
        world.ask(b"more")
    assert world.ask(b"x", job="job-2") == b"xx"
    stopped.remove("job-1")
    assert world.ask(b"y") == b"yy"
    assert world.seen("requests") == 3


def test_a_worker_that_cannot_start_says_why_to_the_operator_only(world: World) -> None:
    (world.folder / "broken").touch()
    with pytest.raises(NotStarted) as refused:
        world.ask(b"x")
    assert "ledger" not in str(refused.value)
    assert refused.value.text == "The ledger is not valid. Restore it."
    assert refused.value.exit_code == LedgerError.exit_code
    (world.folder / "broken").unlink()
    assert world.ask(b"x") == b"xx"


@pytest.mark.parametrize(("deaths", "starts"), [(0, True), (2, True), (3, False)])
def test_a_worker_that_is_killed_while_the_daemon_starts_is_started_again(
    tmp_path: Path, deaths: int, starts: bool
) -> None:
    begun = []

    def launch(words: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        begun.append(words)
        if len(begun) <= deaths:
            return start(["/bin/sh", "-c", "kill -9 $$"], pass_fds=(descriptor,))
        return light(words, descriptor, environment)

    world = World(tmp_path, ProcessBackend(tmp_path, launch=launch), SystemClock())
    if starts:
        world.executor.try_start()
        assert world.executor.working
    else:
        with pytest.raises(NotStarted) as problem:
            world.executor.try_start()
        assert "It was killed (SIGKILL)" in problem.value.text
    assert [kind for kind, _ in world.events] == ["worker-ended"] * min(deaths, 2)
    world.executor.close()


def test_a_look_that_never_ends_costs_the_worker_and_not_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "LOOK_S", 0.0)
    world = World(tmp_path, ProcessBackend(tmp_path, launch=light), SystemClock())
    world.ask(b"x")
    assert world.executor.process_id is not None
    os.kill(world.executor.process_id, signal.SIGSTOP)
    with pytest.raises(NotStarted) as problem:
        world.executor.look()
    assert "did not answer within" in problem.value.text
    assert world.ask(b"again") == b"againagain"
    world.executor.close()


class Idle(World):
    """A process, and a clock that moves when it is told to."""

    def __init__(self, folder: Path, stuck_minutes: float = 0.0) -> None:
        self.clock = ManualClock(datetime(2026, 11, 27, tzinfo=UTC))
        super().__init__(folder, ProcessBackend(folder, launch=light), self.clock, stuck_minutes)

    def after(self, seconds_s: float) -> bool:
        self.clock.sleep(seconds_s)
        self.executor.look()
        return self.executor.working


def test_a_worker_ends_when_nobody_asks_and_is_kept_while_a_session_is_open(tmp_path: Path) -> None:
    world = Idle(tmp_path)
    world.executor.try_start()
    assert world.after(UNUSED_S - 1)
    assert not world.after(1)
    world.ask(b"x")
    assert world.after(60 * MINUTES - 1)
    world.ask(b"open")
    assert world.after(60 * MINUTES + 1)
    assert not world.after(SESSION_S)
    world.ask(b"x")
    assert not world.after(60 * MINUTES)
    assert world.seen("starts") == 3


def test_a_worker_that_hangs_in_a_request_is_ended_and_the_next_request_starts_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look of the daemon takes a minute of the clock, from the moment at which the work hangs."""
    monkeypatch.setattr(base, "WAIT_S", 0.01)
    world = Idle(tmp_path, stuck_minutes=30.0)
    monkeypatch.setattr(world.executor._stopped, "check", lambda job: world.clock.sleep(60.0 * world.seen("hangs")))
    assert world.ask(b"first") == b"firstfirst"
    pid = world.executor.process_id
    with pytest.raises(Lost, match="gave no sign for 30 minutes and was ended"):
        world.ask(b"hang")
    assert pid is not None
    assert ended(pid)
    assert [kind for kind, _ in world.events] == ["worker-ended"]
    assert "stuck_minutes in site.toml" in str(world.events[0])
    (tmp_path / "hangs").unlink()
    assert world.ask(b"again") == b"againagain"
    world.executor.close()


def test_a_worker_that_stops_reading_is_ended_and_the_next_request_starts_another(tmp_path: Path) -> None:
    """It is stopped by the machine, and the request is larger than what the kernel keeps for it."""
    world = Idle(tmp_path, stuck_minutes=0.01)
    assert world.ask(b"first") == b"firstfirst"
    pid = world.executor.process_id
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Lost, match="gave no sign"):
        world.ask(bytes(8 * 2**20))
    assert ended(pid)
    assert "stuck_minutes in site.toml" in str(world.events[-1])
    assert world.ask(b"again") == b"againagain"
    world.executor.close()


class Paced:
    """A worker from which these come one after the other: a frame, or None for a wait of `wait_s` seconds of the clock."""

    local, process_id = False, None

    def __init__(self, clock: ManualClock, wait_s: float, frames: Sequence[Frame | None], start_s: float = 0.0) -> None:
        self.channel, self.start_s = self, start_s
        self._clock, self._wait_s, self._frames = clock, wait_s, list(frames)

    def start(self) -> "Paced":
        return self

    def ended(self) -> str:
        return ""

    def kill(self) -> None:
        raise AssertionError("It was ended.")

    def limit(self, send_s: float) -> None:
        pass

    def send(self, frame: Frame) -> None:
        pass

    def receive(self, wait_s: float) -> Frame | None:
        if not wait_s:
            return None  # nothing is left of an earlier request
        frame = self._frames.pop(0)
        self._clock.sleep(0.0 if frame else self._wait_s)
        return frame


@pytest.mark.parametrize(("minutes", "waits"), [(30.0, 29), (0.0, 5000)])
def test_a_worker_that_gives_signs_is_left_alone_and_without_a_limit_any_is(
    tmp_path: Path, minutes: float, waits: int
) -> None:
    """Between two signs pass `waits` minutes, whichever the sign is."""
    clock = ManualClock(datetime(2026, 11, 27, tzinfo=UTC))
    signs = [frame_of(PROGRESS, step="training", percent=7)] * 3 + [frame_of(EVENT, kind="trained", fields={})]

    frames = [None, *(part for sign in signs for part in (sign, None)), Frame(REPLY)]
    slow = Paced(clock, 60.0 * waits, frames)
    world = World(tmp_path, slow, clock, minutes)  # type: ignore[arg-type]
    world.executor._run = slow  # type: ignore[assignment]
    assert world.executor.ask("job-1", b"", b"") == (b"", b"")
    assert world.steps == [("training", 7)] * 3


def test_a_wait_in_a_cluster_s_queue_is_not_work_that_hangs(tmp_path: Path) -> None:
    """It is ready after a day in the queue, and answers at once."""
    clock = ManualClock(datetime(2026, 11, 27, tzinfo=UTC))
    queued = Paced(clock, 3600.0, [*[None] * 24, Frame(READY), Frame(REPLY)], start_s=7 * 86_400.0)
    world = World(tmp_path, queued, clock, stuck_minutes=120.0)  # type: ignore[arg-type]
    assert world.executor.ask("job-1", b"", b"") == (b"", b"")


DAEMON = """
import functools, sys, threading
from pathlib import Path
from tests.client.executors.test_contract import World, light
from salus.client.executors.process import ProcessBackend
from salus.common.clock import SystemClock
world = World(Path(sys.argv[1]), ProcessBackend(Path(sys.argv[1]), launch=light), SystemClock())
world.ask(b"x")
print(world.executor.process_id, flush=True)
world.ask(b"hang")
"""


def test_a_worker_dies_with_its_daemon_even_while_it_works_and_the_next_waits_for_it(tmp_path: Path) -> None:
    with running([sys.executable, "-c", DAEMON, tmp_path], stdout=subprocess.PIPE, cwd=ROOT) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        daemon.stdout.close()
        wait_until(lambda: (tmp_path / "hangs").exists(), "the work", process=daemon)
        daemon.kill()
        daemon.wait()
        assert ended(pid)
    world = World(tmp_path, ProcessBackend(tmp_path, launch=light), SystemClock())
    assert world.ask(b"x") == b"xx"
    world.executor.close()


def test_there_is_one_worker_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, ProcessBackend(tmp_path, launch=light), SystemClock())
    world.ask(b"x")
    monkeypatch.setattr(worker, "LOCK_S", 0.0)
    with pytest.raises(ConfigError, match="Another process works"), worker.only_worker(tmp_path):
        pass
    world.executor.close()
    with worker.only_worker(tmp_path):
        pass


def test_memory_beyond_the_limit_cannot_be_had(tmp_path: Path) -> None:
    world = World(tmp_path, ProcessBackend(tmp_path, launch=light, memory_mb=1024), SystemClock())
    with pytest.raises(Lost):
        world.ask(b"fill")
    assert world.events == [("worker-ended", {"job": "job-1", "text": "It ended with exit code 1."})]
    world.executor.close()


def test_slurm_gets_lists_of_words_and_leftovers_are_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_commands(tmp_path / "bin", monkeypatch)
    folder = tmp_path / "site"
    left = folder / "slurm" / "old"
    left.mkdir(parents=True)
    sleeping = start(["sleep", "3600"])
    (left / "job-id").write_text(str(sleeping.pid))
    backend = SlurmBackend(folder, ExecutorSettings(kind="slurm", python="/opt/p y", options=("--gres=gpu:1",)))
    assert sleeping.wait() == -signal.SIGKILL
    assert not left.exists()
    run = backend.start()
    words = json.loads((tmp_path / "bin" / "sbatch.json").read_text())
    (place,) = (folder / "slurm").iterdir()
    assert words[:4] == ["--gres=gpu:1", "--parsable", "--job-name=salus", "--no-requeue"]
    assert words[-9:] == [
        str(place / "work.sh"), "/opt/p y", "-P", "-m", "salus.client.executors.worker", "folder", str(folder), str(place), "0",
    ]  # fmt: skip
    wait_until(lambda: bool(run.ended()), "its end")
    run.kill()
    assert list((folder / "slurm").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("sbatch", "import sys; sys.exit(1)"), ("sbatch", "print('Submitted')"), ("sbatch", "print('1 --x')")],
)
def test_a_cluster_that_takes_no_job_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    stub_commands(tmp_path / "bin", monkeypatch)
    (tmp_path / "bin" / name).write_text(f"#!{sys.executable}\n{text}\n")
    world = World(tmp_path, SlurmBackend(tmp_path, ExecutorSettings(kind="slurm")), SystemClock())
    with pytest.raises(NotStarted) as refused:
        world.ask(b"x")
    assert "Slurm did not take" in refused.value.text
    assert list((tmp_path / "slurm").iterdir()) == []


def test_without_slurm_a_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    world = World(tmp_path, SlurmBackend(tmp_path, ExecutorSettings(kind="slurm")), SystemClock())
    with pytest.raises(NotStarted) as refused:
        world.ask(b"x")
    assert "sbatch cannot be run" in refused.value.text


def test_a_worker_elsewhere_ends_when_its_daemon_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = tmp_path / "alive", [0.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    file.write_text("0")
    pulse = worker.Pulse(file)
    assert pulse()
    for beat in range(3):
        now[0] += worker.QUIET_S - 1
        file.write_text(str(beat + 1))
        assert pulse()
    now[0] += worker.QUIET_S
    assert not pulse()
    file.unlink()
    assert not worker.Pulse(file)()
