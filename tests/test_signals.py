"""Ctrl-C and SIGTERM at early and late moments of real processes: one quiet line, the signal's exit code, nothing left behind."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.builders import job_text, write_npz
from tests.cli import salus
from tests.processes import BACKSTOP_S

from salus.client.config import init_site, open_catalogue
from salus.common.signals import Stopped, saying, starting_child, unwinding
from salus.simulations.phantoms import HOSPITALS, write_hospital
from salus.simulations.trial import Trial

WAIT_S = BACKSTOP_S
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINES = {130: "Interrupted.", 143: "Terminated."}
Moment = Callable[[psutil.Process], bool]


def catches(process: psutil.Process) -> bool:
    """Whether the program has taken SIGTERM over: the first moment that is ours."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line for line in text.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def importing(process: psutil.Process) -> bool:
    """Whether the largest library is being loaded, by the process or the one that it has for its work."""
    pids = [process.pid, *(child.pid for child in process.children())]
    return any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)


def starting(process: psutil.Process) -> bool:
    """Whether the libraries of a command that trains nothing are being loaded."""
    return "_multiarray_umath" in Path(f"/proc/{process.pid}/maps").read_text()


def has_children(process: psutil.Process) -> bool:
    return bool(process.children())


def exists(path: Path) -> Moment:
    return lambda process: path.exists() and (path.is_dir() or path.stat().st_size > 0)


class Running:
    """A `salus` process of this test."""

    def __init__(self, *words: object, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "salus", *map(str, words)],
            cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )  # fmt: skip

    def stop_at(self, moment: Moment, number: int) -> tuple[int, str]:
        """Send the signal, to the whole group as a terminal does for Ctrl-C; return the exit code and all output."""
        watched, pause, children = psutil.Process(self.process.pid), threading.Event(), []
        try:
            for _ in range(int(WAIT_S / 0.005)):
                with contextlib.suppress(psutil.Error, OSError):
                    if self.process.poll() is not None or moment(watched):
                        break
                pause.wait(0.005)
            children = watched.children(recursive=True) if watched.is_running() else []
            (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)
            out, err = self.process.communicate(timeout=WAIT_S)
            _, alive = psutil.wait_procs(children, timeout=WAIT_S)
            assert not alive, "a child was left behind"
        finally:
            for process in (*children, self.process):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        return self.process.returncode, out + err


def quiet(code: int, output: str, *allowed: int) -> None:
    assert code in allowed, output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    said = [line for line in output.splitlines() if line.startswith(tuple({*LINES.values(), "Stopped."}))]
    assert len(said) == 1, output


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial"), ["One", "Two"], policy="")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write_npz(tmp_path / "toy.npz", images=60)
    (tmp_path / "job.toml").write_text(job_text(rounds=200))
    return tmp_path / "job.toml"


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *itertools.product(["catches", "importing"], [signal.SIGINT, signal.SIGTERM]),
        ("has_children", signal.SIGTERM),
        ("first event", signal.SIGINT),
        pytest.param("has_children", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("first event", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_simulation_ends_quietly_and_can_be_run_again(tmp_path: Path, job: Path, moment: str, number: int) -> None:
    words = ["simulate", job, "--data", tmp_path / "toy.npz", "--sites", "2", "--workers", "1"]
    kept = ["--output", tmp_path / "kept", "--json", tmp_path / "result.json"]
    moments = {
        "catches": catches,
        "importing": importing,
        "has_children": has_children,
        "first event": exists(tmp_path / "kept" / "events.jsonl"),
    }
    code, output = Running(*words, *kept, cwd=tmp_path).stop_at(moments[moment], number)
    quiet(code, output, CODES[signal.Signals(number)])
    assert not list(tmp_path.glob("*.json")), "half a result"
    assert not list(tmp_path.glob(".result*"))
    if moment == "first event":
        job.write_text(job_text(rounds=1))
        again = salus(*words, *kept)
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "result.json").exists()
        assert salus(*words, *kept).returncode == 11, "a finished one is not replaced"


@pytest.mark.parametrize("moment", ["importing", "serving"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_daemons_stop_quietly(trial: Trial, moment: str, number: int) -> None:
    for role, member in (("server", trial.coordinator), ("client", trial.sites[0])):
        log = member / "events.jsonl"
        log.unlink(missing_ok=True)
        wanted = importing if moment == "importing" else exists(log)
        code, output = Running(role, "start", member, cwd=trial.folder).stop_at(wanted, number)
        quiet(code, output, 0, CODES[signal.Signals(number)])
        if moment == "serving":
            assert code == 0


def test_watching_ends_and_the_job_goes_on(trial: Trial) -> None:
    with trial:
        trial.start(trial.coordinator)
        trial.wait_online(0)
        job_id = trial.submit(job_text())
        watching = Running("job", "watch", trial.coordinator, job_id, cwd=trial.folder)
        code, output = watching.stop_at(about_to_connect, signal.SIGINT)
        quiet(code, output, 130)
        assert trial.admin.get(f"/jobs/{job_id}")["status"] in ("waiting", "running")


def about_to_connect(process: psutil.Process) -> bool:
    return "_ssl." in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.slow
def test_the_demo_ends_with_all_its_daemons(tmp_path: Path) -> None:
    running = Running("demo", "--folder", tmp_path / "demo", cwd=tmp_path)
    code, output = running.stop_at(lambda process: len(process.children()) >= 3, signal.SIGINT)
    quiet(code, output, 130)


def test_an_import_that_is_stopped_leaves_nothing_half_made(tmp_path: Path) -> None:
    init_site(tmp_path / "site", "One")
    write_hospital(tmp_path / "dicom", HOSPITALS[0], seed=1)
    words = [
        "dataset",
        "import",
        tmp_path / "site",
        "chest",
        tmp_path / "dicom",
        "--labels",
        tmp_path / "dicom" / "labels.csv",
    ]
    running = Running(*words, cwd=tmp_path)
    code, output = running.stop_at(starting, signal.SIGTERM)
    quiet(code, output, 143)
    assert open_catalogue(tmp_path / "site").names() == []


def unwind(closed: list[str]) -> None:
    with unwinding(), saying("Run it again."):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            closed.append("closed")


def test_the_first_signal_unwinds_and_a_line_can_be_added() -> None:
    before = signal.getsignal(signal.SIGTERM)
    closed: list[str] = []
    with pytest.raises(Stopped) as caught:
        unwind(closed)
    assert closed
    assert (caught.value.exit_code, caught.value.line) == (143, "Terminated. Run it again.")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unwinding():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_waits_until_a_child_has_started() -> None:
    began: list[str] = []
    with pytest.raises(Stopped), unwinding():
        start_under_fire(began)
    assert began == ["started"]


def start_under_fire(began: list[str]) -> None:
    with starting_child():
        signal.raise_signal(signal.SIGTERM)
        began.append("started")
    began.append("went on")
