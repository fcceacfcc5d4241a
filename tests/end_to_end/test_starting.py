"""A job that starts from a package over daemons: submitted on the command line, killed on both sides, and refused by policy."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cli import salus
from tests.packages import NOISE, export, finish
from tests.starts import started_text

from salus.common.job import parse_job
from salus.common.package.checking import checked_package
from salus.common.package.model import weights_in
from salus.simulations.trial import Trial

pytestmark = pytest.mark.slow


def test_daemons_train_from_a_package_and_resume(federation: Trial, tmp_path: Path) -> None:
    from tests.builders import job_text

    run = finish(tmp_path / "run", parse_job(job_text(model="cnn", rounds=1)))
    package = export(run, tmp_path / "package")
    with checked_package(package) as found:
        weights, name = weights_in(found), f"sha256:{found.sha256}"
    changes = {"dataset": "noised", "protection": "masking", "min_sites": 5, "rounds": 6, "privacy": NOISE}
    text = started_text(weights, **changes)  # type: ignore[arg-type]
    text = text[: text.index("[start]")] + f'[start]\npackage = "{name}"\nweights = "{weights.digest}"\nnew = ["12."]\n'
    file = tmp_path / "job.toml"
    file.write_text(text)
    without = salus("job", "submit", federation.coordinator, file)
    assert without.returncode != 0
    assert "Submit the job with --start" in without.stderr
    done = salus("job", "submit", federation.coordinator, file, "--start", package)
    assert done.returncode == 0, done.stderr
    job = federation.admin.get("/jobs")[-1]["job"]
    federation.wait_for_round(job, 1)
    federation.kill(federation.coordinator)
    federation.kill(federation.sites[0])
    federation.start(federation.coordinator)
    federation.start(federation.sites[0])
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    model = load_file(result["model"])
    for line in weights.lines:
        assert np.array_equal(model[line.name], weights.tensors[line.name]) == (not line.name.startswith("12."))
    assert all(len(list((site / "starts").glob("*.start"))) >= 1 for site in federation.sites)
    plain = text.replace(NOISE, 'noise = "none"').replace("batch_size = 8", "batch_size = 8\nlearning_rate = 0.02")
    file.write_text(plain)
    refused = salus("job", "submit", federation.coordinator, file)
    assert refused.returncode == 44
    assert "does not list" in refused.stderr
