"""An audit of a job with a start attacks the model that begins with it."""

from pathlib import Path

import numpy as np
import pytest
from tests.builders import write_npz
from tests.starts import started_text, trained_weights
from tests.tiny import CPU

from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import ConfigError, NoStart
from salus.common.job import parse_job
from salus.simulations.auditing.finished import finished_run
from salus.simulations.auditing.one_run import flipped, guessed
from salus.simulations.auditing.world import observed
from salus.simulations.simulate import simulate
from salus.simulations.virtual import make_hospitals

SITES = 3


def test_the_one_run_audit_knows_the_frozen_parameters(tmp_path: Path) -> None:
    weights = trained_weights()
    text = started_text(weights, rounds=1, dataset="toy").replace('["no", "yes"]', '["0", "1"]')
    job = parse_job(text)
    data = write_npz(tmp_path / "toy.npz", images=60)
    make_hospitals(job, data, SourceOptions(), sites=SITES, partition="iid", seed=0, folder=tmp_path / "h")
    coins = flipped(job, 20, 0)
    seen = observed(
        job, tmp_path / "h", tmp_path / "r", sites=SITES, performance=CPU, change=coins.change(), start=weights
    )
    scores = guessed(job, coins, seen, lambda one: one.own, SITES, weights)
    assert scores.shape[1] == 20
    assert np.isfinite(scores).all()
    other = guessed(job, coins, seen, lambda one: one.own, SITES, trained_weights(8))
    assert not np.allclose(scores, other), "the scores follow from the frozen parameters"
    with pytest.raises(NoStart):
        guessed(job, coins, seen, lambda one: one.own, SITES)


def test_the_folder_of_a_simulation_has_the_start_of_its_job(tmp_path: Path) -> None:
    weights, run = trained_weights(), tmp_path / "run"
    job = parse_job(started_text(weights, rounds=1, dataset="toy").replace('["no", "yes"]', '["0", "1"]'))
    data = write_npz(tmp_path / "toy.npz", images=60)
    simulate(
        job,
        data,
        sites=SITES,
        partition="iid",
        seed=0,
        folder=run,
        options=SourceOptions(),
        performance=CPU,
        start=weights,
    )
    found = finished_run(run, tmp_path / "work")
    assert found.start is not None
    assert found.start.digest == weights.digest
    (kept,) = (run / "coordinator" / "starts").iterdir()
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="link"):
        finished_run(run, tmp_path / "again")
