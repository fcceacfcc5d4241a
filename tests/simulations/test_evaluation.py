"""The noisy evaluation of a whole job against the truth on the same validation patients."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.builders import tiny_job, write_npz

from salus.client.data.loading import Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.estimates import Estimate
from salus.common.job import Job, load_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector, layout_of
from salus.privacy.dp.plan import plan_of
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import shape_of
from salus.simulations.benchmarks.evaluation import POPULATIONS, run
from salus.simulations.simulate import simulate
from salus.simulations.virtual import open_catalogue

JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"
CPU = Performance(device="cpu", threads=1)


class Sites:
    """The virtual sites of a finished simulation and its model, for evaluating the model again and again."""

    def __init__(self, job: Job, folder: Path, model: Path, sites: int) -> None:
        self.job, self.sites = job, sites
        self.task = make_task(job.task)
        network = build_model(job.task, job.job.seed)
        layout = layout_of(network)
        tensors = load_file(model)
        self.model: FloatVector = layout.flatten({spec.name: tensors[spec.name] for spec in layout.specs})
        self.trainer = Trainer(network, layout, self.task, job, CPU)
        self.data: list[TensorSet] = [
            local_data(open_catalogue(folder, site), job, self.task, Memory(2**26)).validation
            for site in range(1, sites + 1)
        ]

    def truth(self) -> float:
        """The exact AUC of the model on all sites' validation patients."""
        totals = [self.trainer.evaluate(self.model, data) for data in self.data]
        return float(self.task.metrics(np.sum(totals, axis=0))["auc"])

    def evaluated(self) -> Estimate:
        """One evaluation as the sites make it: each adds its noise, drawn anew."""
        plan = plan_of(self.job)
        assert plan is not None
        private = PrivateTrainer(self.trainer, plan, os.urandom)
        rows = [private.statistics(self.model, data).astype(np.float64) for data in self.data]
        shape = shape_of(self.job, "evaluate", len(self.model), self.task)
        noise = noise_in_sum(self.job, shape, roster=self.sites, sites=self.sites)
        auc = self.task.private_metrics(np.sum(rows, axis=0), noise)["auc"]
        assert isinstance(auc, Estimate)
        return auc


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether value +- two standard errors hold the truth; what is too noisy to say holds nothing."""
    if estimate.too_noisy or estimate.value is None or estimate.standard_error is None:
        return False
    return abs(estimate.value - truth) <= 2 * estimate.standard_error


def test_a_simulation_reports_its_evaluation_with_errors(tmp_path: Path) -> None:
    job = tiny_job(rounds=1, min_sites=3, protection="masking", privacy="epsilon = 8.0\nsampling_rate = 0.5")
    data = write_npz(tmp_path / "toy.npz", images=300)
    result = simulate(
        job, data, sites=3, partition="iid", seed=0, folder=tmp_path / "s", options=SourceOptions(), performance=CPU
    )
    auc = result.evaluation["auc"]
    assert isinstance(auc, Estimate)
    assert auc.standard_error is not None
    plain = result.to_json()["evaluation"]
    assert isinstance(plain, dict)
    assert plain["auc"].keys() == {"value", "standard_error", "noise_error"}
    assert all(
        isinstance(value, float) for value in result.metrics.values()
    )  # the researcher's own test split is exact


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_private_jobs_auc_has_an_interval_that_holds_the_truth(tmp_path: Path, shared_data: Path) -> None:
    """The readme's private job, trained once; its final model is then evaluated with ten draws of the sites' noise."""
    job = load_job(JOBS / "pneumonia-private.toml")
    result = simulate(
        job, shared_data / "pneumoniamnist", sites=8, partition="iid", seed=0, folder=tmp_path / "s",
        options=SourceOptions(), performance=CPU,
    )  # fmt: skip
    torch.set_num_threads(1)
    sites = Sites(job, tmp_path / "s", result.model, 8)
    truth = sites.truth()
    printed = result.evaluation["auc"]
    assert isinstance(printed, Estimate)
    found = [printed, *(sites.evaluated() for _ in range(9))]
    assert sum(holds(estimate, truth) for estimate in found) >= 9
    assert all((estimate.standard_error or 1.0) < 0.06 for estimate in found)


def test_the_chosen_design_is_several_times_as_exact_as_the_old_one() -> None:
    found = run(quick=True)
    for population in POPULATIONS:
        ours, old = found[f"ours_ours_{population}"], found[f"peer_old_{population}"]
        assert isinstance(ours, float)
        assert isinstance(old, float)
        assert ours < 0.05
        assert 1.5 * ours < old
