"""A worker that answers rubbish, and what else could reach it: the folder of the daemon's start, its environment, a stranger."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.client.executors.test_contract import STUBS, stub_commands

from salus.client.executors import process
from salus.client.executors.base import Executor, Listener, Lost
from salus.client.executors.channels import Ended, SocketChannel
from salus.client.executors.frames import EVENT, HEAD, PROGRESS, READY, REPLY, STATE, TO_WORKER, Frame
from salus.client.executors.process import ProcessRun
from salus.client.executors.settings import ExecutorSettings
from salus.client.executors.slurm import SlurmBackend
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError
from salus.common.events import EventLog
from salus.common.packets import Reply, Request, header_of

OK = header_of(Reply(kind="ok", site=1))
REQUEST = header_of(Request(kind="train", job_id="job-1", round=1))
SECRET = "http://name:planted-password@proxy.example:8080"


class Rubbish:
    """Starts workers whose first answer comes after other bytes, or which have more to say after it."""

    local, start_s = True, 60.0

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after, self.pid, self.starts = before, after, 1, 0

    def start(self) -> ProcessRun:
        self.starts += 1
        ours, self._theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(self._theirs, self.starts == 1), daemon=True).start()
        return ProcessRun(self, ours)

    def poll(self) -> int | None:
        return 0 if self._theirs.fileno() < 0 else None

    def wait(self) -> int:
        return 0

    def kill(self) -> None:
        self._theirs.close()

    def _serve(self, end: socket.socket, rubbish: bool) -> None:
        channel = SocketChannel(end, TO_WORKER)
        channel.send(Frame(READY))
        with contextlib.suppress(Ended, OSError, ValueError):
            while (frame := channel.receive(60.0)) is not None:
                reply = Frame(REPLY, OK, frame.body)
                whole = reply.head + reply.header + reply.body
                end.sendall(self.before + whole + self.after if rubbish else whole)
                rubbish = False


def whole(kind: bytes, header: bytes) -> bytes:
    return Frame(kind, header).head + header


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (whole(EVENT, b'{"kind":"trained","fields":{"loss":NaN}}'), b""),
        (whole(EVENT, b'{"kind":"trained","fields":{"text":"\\ud800"}}'), b""),
        (whole(EVENT, b'{"kind":"data-trouble","fields":{}}'), b""),
        (whole(EVENT, b'{"kind":"trained","fields":{"at":"yesterday"}}'), b""),
        (whole(STATE, b'{"troubles":null}'), b""),
        (whole(STATE, b'{"troubles":5}'), b""),
        (whole(PROGRESS, b'{"step":[1],"percent":3}'), b""),
        (whole(PROGRESS, b"[" * 60_000), b""),
        (HEAD.pack(REPLY, 1, 9 * 2**30), b""),
        (HEAD.pack(b"?", 1, 1), b""),
        (b"", whole(REPLY, OK)),
    ],
)
def test_a_reply_never_answers_another_request_whatever_the_worker_sends(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    log = EventLog(tmp_path / "events.jsonl", listeners=(lambda event: event.fields["text"] and None,))
    backend = Rubbish(before, after)
    listener = Listener(lambda kind, fields: log.emit(kind, **fields), lambda *_: None, lambda _: None)
    executor = Executor(tmp_path, backend, 10.0, SystemClock(), listener)
    for body in (b"one", b"two", b"three"):
        with contextlib.suppress(Lost, KeyError):  # the last one is of the listener
            assert executor.ask("job-1", REQUEST, body) == (OK, body)
    assert executor.ask("job-1", REQUEST, b"last") == (OK, b"last")
    assert backend.starts <= 2
    executor.close()


def test_nothing_is_imported_from_the_folder_of_the_daemons_start_and_no_proxy_reaches_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("open('imported', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", SECRET)
    monkeypatch.setenv("all_proxy", SECRET)
    monkeypatch.setattr(
        process, "BOOT", process.BOOT.split("from salus")[0] + "import os\nos.write(1, repr(dict(os.environ)).encode())"
    )
    seen, written = socket.socketpair()
    with written, seen:
        monkeypatch.setattr(process.subprocess, "Popen", _into(written.fileno()))
        assert process.spawn(["socket"], written.fileno(), {"OMP_NUM_THREADS": "1"}).wait() == 0
        text = seen.recv(2**20).decode()
    assert "OMP_NUM_THREADS" in text
    assert "planted" not in text
    assert not (tmp_path / "imported").exists()


def _into(descriptor: int) -> object:
    real = subprocess.Popen
    return lambda words, **options: real(words, **options, stdout=descriptor)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stub_commands(tmp_path / "bin", monkeypatch)
    keep = f'import json, os; open({str(tmp_path / "environment")!r}, "w").write(json.dumps(dict(os.environ)))\n'
    (tmp_path / "bin" / "sbatch").write_text(f"#!{sys.executable}\n{keep}{STUBS['sbatch']}")
    return tmp_path


def test_a_cluster_does_not_get_the_password_of_a_proxy(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", SECRET)
    run = SlurmBackend(cluster, ExecutorSettings(kind="slurm", python="/bin/true")).start()
    run.kill()
    environment = json.loads((cluster / "environment").read_text())
    assert "planted" not in str(environment)
    assert "PATH" in environment


@pytest.mark.parametrize("how", ["writable", "link"])
def test_a_folder_of_frames_that_a_stranger_can_write_is_refused(cluster: Path, how: str) -> None:
    shared = cluster / "slurm"
    if how == "link":
        (cluster / "elsewhere").mkdir(mode=0o700)
        shared.symlink_to(cluster / "elsewhere")
    else:
        shared.mkdir()
        shared.chmod(0o775)
    with pytest.raises(ConfigError, match="Somebody else can write"):
        SlurmBackend(cluster, ExecutorSettings(kind="slurm"))
