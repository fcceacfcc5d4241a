"""What a site keeps between rounds: on disk before its update leaves, and right after a kill at any moment."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from salus.client import state as state_module
from salus.client.state import MOST_JOBS, JobStates
from salus.common.errors import StorageError

JOB = "tiny-0001-0123456789abcdef"
WRITER = """
import sys
sys.path[:] = sys.argv[1].split(":")
import numpy as np
from pathlib import Path
from salus.client.state import JobStates
states = JobStates(Path(sys.argv[2]))
round_ = 0
while True:
    round_ += 1
    states.keep("job", round_, {"control": np.full(50_000, float(round_)), "round": np.array([float(round_)])})
    print(round_, flush=True)
"""


def value(round_: int) -> dict[str, np.ndarray]:
    return {"control": np.full(3, float(round_)), "round": np.array([float(round_)])}


@pytest.fixture(params=["disk", "memory"])
def states(request: pytest.FixtureRequest, tmp_path: Path) -> JobStates:
    return JobStates(tmp_path / "states" if request.param == "disk" else None)


def test_a_repeated_round_begins_from_the_one_before_and_the_next_from_the_last(states: JobStates) -> None:
    assert states.load(JOB, 1) == {}
    for round_ in (1, 2, 3):
        states.keep(JOB, round_, value(round_))
    assert states.load(JOB, 4)["control"].tolist() == [3.0] * 3
    assert states.load(JOB, 3)["control"].tolist() == [2.0] * 3
    assert states.load(JOB, 2) == {}  # only the last two are kept
    states.keep(JOB, 3, value(7))  # the round is repeated
    assert states.load(JOB, 4)["control"].tolist() == [7.0] * 3
    assert states.load("another-job", 4) == {}


def test_values_come_back_exactly_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    states = JobStates(tmp_path / "states")
    kept = {"control": np.random.default_rng(0).normal(size=1000), "since": np.array([3.0])}
    states.keep(JOB, 4, kept)
    found = JobStates(tmp_path / "states").load(JOB, 5)  # another process
    assert all(np.array_equal(found[name], kept[name]) for name in kept)
    assert found["control"].dtype == np.float64
    assert stat.S_IMODE((tmp_path / "states" / JOB).stat().st_mode) == 0o700


def test_a_site_killed_while_it_writes_has_the_last_whole_state(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, ":".join(sys.path), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    last = 0
    while last < 25:
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    found = JobStates(tmp_path).load("job", 10**6)
    round_ = float(found["round"][0])
    assert last <= round_ <= last + 1  # what was reported as kept is there, whole
    assert np.array_equal(found["control"], np.full(50_000, round_))


def test_the_file_is_synced_before_keep_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    right = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(stat.S_IFMT(os.fstat(handle).st_mode)), right(handle))
    )
    JobStates(tmp_path).keep(JOB, 1, value(1))
    assert stat.S_IFREG in synced
    assert synced[-1] == stat.S_IFDIR


def test_a_damaged_file_counts_as_lost(tmp_path: Path) -> None:
    states = JobStates(tmp_path)
    states.keep(JOB, 1, value(1))
    (file,) = (tmp_path / JOB).iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert states.load(JOB, 2) == {}


def test_a_full_disk_is_a_storage_error_and_leaves_the_older_state(tmp_path: Path) -> None:
    states = JobStates(tmp_path)
    states.keep(JOB, 1, value(1))
    (tmp_path / JOB / "round-0000002.safetensors.part").mkdir()  # nothing can be written there
    with pytest.raises(StorageError):
        states.keep(JOB, 2, value(2))
    assert states.load(JOB, 3)["control"].tolist() == [1.0] * 3


def test_states_of_old_jobs_are_removed(tmp_path: Path) -> None:
    states = JobStates(tmp_path)
    for number in range(MOST_JOBS + 4):
        states.keep(f"job-{number}", 1, value(1))
        os.utime(tmp_path / f"job-{number}", ns=(number, number))
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == MOST_JOBS
    assert f"job-{MOST_JOBS + 3}" in left
    assert state_module.FILE.fullmatch("round-0000001.safetensors")
