"""Whole daemons of the version before, with one side upgraded: a job runs from its first to its last round.

Needs the commit of that version in the repository's history; a shallow clone does not have it (git fetch --unshallow). The link
alone is tested without it, in `test_old_versions.py`.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.old_version import COMMIT

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.events import read_events
from salus.simulations.trial import Daemon, Trial, launch

ROOT = Path(__file__).resolve().parents[2]
POLICY = "allow_unprotected = true\nallow_without_noise = true\n[budget]\nepsilon = 30.0\n"
MAIN = "import sys; from salus.common import lifeline; lifeline.watch(); from salus.__main__ import main; main()"
pytestmark = pytest.mark.slow


class Old(subprocess.Popen):  # type: ignore[type-arg]
    """A daemon of the version before; see `salus.simulations.trial.Daemon`."""

    def __init__(self, tree: Path, words: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            super().__init__(
                [sys.executable, "-c", MAIN, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment(tree),
            )

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        if self.stdin is not None:
            self.stdin.close()
        return code


class OldCoordinator(Trial):
    """A consortium of the version before: its coordinator's kit and settings have no newer keys."""

    def issue(self) -> None:
        super().issue()
        path = self.coordinator / "trust" / "kit.json"
        kit = json.loads(path.read_text())
        del kit["sites"]
        path.write_text(json.dumps(kit))
        (self.coordinator / "server.toml").write_text(f'listen = "127.0.0.1"\nport = {self.port}\n')


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the version before."""
    folder = tmp_path_factory.mktemp("old")
    archive = folder / "old.tar"
    made = subprocess.run(["git", "archive", "-o", str(archive), COMMIT], cwd=ROOT, capture_output=True)
    if made.returncode:
        pytest.skip(f"commit {COMMIT} is not in this clone: git fetch --unshallow")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("upgraded", ["coordinator and one site", "sites"])
def test_a_job_runs_with_one_side_upgraded(tree: Path, upgraded: str, tmp_path: Path) -> None:
    old_folders = ("site-1",) if upgraded == "coordinator and one site" else ("coordinator",)

    def start(words: Sequence[str], log: Path) -> Daemon:
        return Old(tree, words, log) if log.parent.name in old_folders else launch(words, log)

    folder = tmp_path / "trial"
    folder.mkdir()
    trial = (OldCoordinator if upgraded == "sites" else Trial)(folder, ["One", "Two"], policy=POLICY, launcher=start)
    for number, site in enumerate(trial.sites):
        data = write_npz(site / "toy.npz", seed=number, images=60)
        open_catalogue(site).add("toy", "medmnist", data, SourceOptions())
    with trial:
        trial.start_all()
        result = trial.wait_for(trial.submit(job_text(rounds=2)))
        assert result["status"] == "finished"
        assert [record["sites"] for record in result["rounds"]] == [[1, 2], [1, 2]]
    for site in trial.sites:
        assert [event.kind for event in read_events(site / "events.jsonl")].count("trained") == 2
