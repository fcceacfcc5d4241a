"""Whole jobs with encryption: in the simulation, over real daemons, and with an 11 M-parameter model."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, write_npz

from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.common.errors import JobError, ProtectionError, Refused
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.vectors import layout_of
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.simulations.benchmarks.environment import peak_rss_mb
from salus.simulations.simulate import SimulationResult, simulate
from salus.simulations.trial import Trial

WITH_KEY = 'encryption"\nkey_holder = 2\nupdate_clip_norm_l2 = 4.0\nstrategy = "fedavg'


def encrypted(**changes: object) -> Job:
    return parse_job(job_text(protection=WITH_KEY, **changes))  # type: ignore[arg-type]


def simulated(folder: Path, job: Job, sites: int = 5) -> SimulationResult:
    return simulate(
        job,
        write_npz(folder / "toy.npz", images=100),
        sites=sites,
        partition="iid",
        seed=0,
        folder=folder / "run",
        options=SourceOptions(),
        performance=Performance(device="cpu", threads=1),
    )


def model_of(folder: Path, job: Job) -> np.ndarray:
    layout = layout_of(build_model(job.task, 0))
    return Checkpoints(folder / "run" / "coordinator").load_model("tiny-0001", job.job.rounds, layout)[0]


def test_an_encrypted_simulation_learns_what_a_plain_one_does(tmp_path: Path) -> None:
    for name in ("plain", "encrypted"):
        (tmp_path / name).mkdir()
    plain = parse_job(job_text(protection='none"\nupdate_clip_norm_l2 = 4.0\nstrategy = "fedavg'))
    simulated(tmp_path / "plain", plain)
    result = simulated(tmp_path / "encrypted", encrypted())
    assert len(result.rounds) == 2
    difference = np.abs(model_of(tmp_path / "plain", plain) - model_of(tmp_path / "encrypted", encrypted()))
    # The grid's rounding of round 1 passes through training; the sums themselves are exact.
    assert float(difference.max()) < 0.02


def test_an_encrypted_job_with_local_noise_runs(tmp_path: Path) -> None:
    privacy = "epsilon = 3.0\nsampling_rate = 0.5\npatients_per_site = 16\n"
    result = simulated(tmp_path, encrypted(privacy=privacy, min_sites=3), sites=4)
    assert len(result.rounds) == 2
    assert result.privacy.source == "plan"  # this protection keeps no transcript that a third party could count


def test_an_encrypted_job_over_daemons_survives_a_killed_key_holder(federation: Trial) -> None:
    job = federation.submit(job_text(rounds=4, model="cnn", protection=WITH_KEY, dataset="encrypted"))
    federation.wait_for_round(job, 1)
    federation.kill(federation.sites[1])
    federation.start(federation.sites[1])
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert len(result["rounds"]) == 4
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in result["rounds"])


def test_jobs_without_a_fitting_key_holder_are_refused() -> None:
    for text in (
        job_text(protection="encryption"),
        job_text(protection='masking"\nkey_holder = 1\nstrategy = "fedavg'),
    ):
        with pytest.raises(JobError, match="key_holder"):
            parse_job(text)
    with pytest.raises(JobError, match=r"site 2 .* sites 1, 3, 4, 5, 6"):
        check_job(encrypted(), (1, 3, 4, 5, 6))
    with pytest.raises(ProtectionError, match="at least 3 sites"):
        check_job(encrypted(), 2)
    with pytest.raises(JobError, match="masking"):
        parse_job(job_text(protection=WITH_KEY, privacy='noise = "distributed"'))


def test_a_site_refuses_a_key_holder_that_its_operator_has_not_named() -> None:
    """The coordinator names the key holder; an accomplice would read everything."""
    with pytest.raises(Refused, match="site 2 as the key holder"):
        Policy(allow_without_noise=True).check(encrypted())
    with pytest.raises(Refused, match="site 2 as the key holder"):
        Policy(allow_without_noise=True, key_holders=(1, 3)).check(encrypted())
    Policy(allow_without_noise=True, key_holders=(2,)).check(encrypted())


@pytest.mark.slow
def test_an_eleven_million_parameter_job_over_daemons_stays_small(federation: Trial) -> None:
    """ResNet-18, five daemons, one round; memory as in docs/results.md."""
    job = federation.submit(
        job_text(rounds=1, model="resnet18", protection=WITH_KEY.replace("4.0", "1.0"), dataset="large")
    )
    result = federation.wait_for(job)
    peaks = {
        "coordinator": peak_rss_mb(federation.process_id(federation.coordinator)),
        "key_holder": peak_rss_mb(federation.worker_id(federation.sites[1])),
        "site": peak_rss_mb(federation.worker_id(federation.sites[2])),
    }
    assert result["status"] == "finished"
    print(json.dumps({"peak_mb": peaks, "seconds": result["rounds"][0]["seconds"]}))
    assert max(peaks.values()) < 1500
