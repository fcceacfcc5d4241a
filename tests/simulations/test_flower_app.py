"""Our apps under Flower's own tools."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app
from tests.builders import job_text, write_npz
from tests.processes import BACKSTOP_S

from salus.common.errors import ConfigError
from salus.server.checkpoints import Checkpoints
from salus.simulations.engine import PoolGrid
from salus.simulations.flower_app import client_app, server_app, settings_of


def serve(sites: list[int], threads: int) -> ClientApp:
    return client_app


def settings(folder: Path) -> dict[str, str | int]:
    (folder / "job.toml").write_text(job_text(rounds=2, protection="masking"))
    data = write_npz(folder / "toy.npz")
    return {"job": str(folder / "job.toml"), "data": str(data), "sites": 5, "folder": str(folder / "run")}


def finished(folder: Path) -> bool:
    store = Checkpoints(folder / "run" / "coordinator")
    return [row.status for row in store.jobs()] == ["finished"] and len(store.records("tiny-0001")) == 2


def test_flowers_loader_finds_the_apps() -> None:
    assert isinstance(load_app("salus.simulations.flower_app:server_app", ValueError), ServerApp)
    assert isinstance(load_app("salus.simulations.flower_app:client_app", ValueError), ClientApp)


def test_the_exported_apps_run_a_job_over_a_grid_that_knows_no_roster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(tmp_path)
    for name, value in values.items():
        monkeypatch.setenv(f"SALUS_{name.upper()}", str(value))
    with PoolGrid(serve, [1, 2, 3, 4, 5]) as grid:
        server_app(grid, Context(1, 1, {}, RecordDict(), {}))
    assert finished(tmp_path)


def test_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="SALUS_JOB"):
        settings_of({})


@pytest.mark.slow
def test_flowers_ray_engine_runs_them_too(tmp_path: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'salus[ray]'")
    script = (
        "from flwr.simulation import run_simulation\n"
        "from salus.simulations.flower_app import client_app, server_app\n"
        f"run_simulation(server_app, client_app, num_supernodes=5, "
        f"backend_config={{'client_resources': {{'num_cpus': {os.cpu_count()}}}}})\n"
    )
    environment = {**os.environ, **{f"SALUS_{k.upper()}": str(v) for k, v in settings(tmp_path).items()}}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=BACKSTOP_S)
    assert finished(tmp_path)
