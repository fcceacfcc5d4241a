"""The coordinator's reading of a vector with noise: sums of real sites, here without noise, against a count of their patients."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import job_text
from tests.people import OPTIONS, with_subgroups, write_people
from tests.server.test_rounds import World

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.estimates import Estimate
from salus.common.events import EventLog
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.subgroups import groups_of
from salus.common.subgroups.noisy import total_noise
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.contribution import Sum
from salus.privacy.dp.plan import plan_of
from salus.server import evaluating
from salus.server.attempts import Attempts
from salus.server.rounds import JobRun

PRIVACY = 'noise = "distributed"\nepsilon = 3.0\nsampling_rate = 0.5\npatients_per_site = 16\nevaluation_share = 0.2'
NOISE_SD = 0.01


def test_the_groups_of_a_noisy_sum_are_those_of_the_sites_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = job_text(protection="masking", privacy=PRIVACY, training="validation_fraction = 0.5")
    job = parse_job(with_subgroups(text))
    task, plan, groups = make_task(job.task), plan_of(job), groups_of(job)
    assert plan is not None
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu", threads=1))
    start = read_parameters(model, trainer.layout)
    vectors, right = [], defaultdict(list)
    for number in (1, 2, 3):
        catalogue = Catalogue(tmp_path / f"{number}.sqlite", b"secret for tests")
        people = write_people(tmp_path / f"people-{number}", patients=60, seed=number, others=5)
        catalogue.add("toy", "images", people, OPTIONS)
        data = local_data(catalogue, job, task, Memory(2**24), site=number).validation
        vectors.append(PrivateTrainer(trainer, plan, lambda n: bytes(n)).statistics(start, data))
        model.eval()
        for images in data.by_patient():
            batch = data.batch(torch.tensor(images))
            with torch.no_grad():
                hits = (model(batch["image"]).argmax(dim=1) == batch["label"]).double()
            for group in range(groups.count):  # a patient's images each count as one part of the patient
                here = (data.places(torch.tensor(images)) == group).any(dim=1)
                right[group].append((float(hits[here].sum()) / len(images), float(here.double().mean())))
            right[-1].append((float(hits.mean()), 1.0))
    monkeypatch.setattr(evaluating, "noise_in_sum", lambda *_, **__: NOISE_SD)
    world = World(tmp_path / "world", job)
    attempts = Attempts(
        job, world.job_id, world.signed, world.sites, world.store, EventLog(), world.keys, world.transcript
    )
    run = JobRun(attempts)
    total = Sum(np.concatenate([np.sum(vectors, axis=0), [3.0]]), (1, 2, 3))
    shape = run._shape("evaluate")
    found = [group for result in run.evaluation._subgroups(total, shape) for group in result.groups]
    assert len(found) == groups.count
    for number, group in enumerate(found):
        hits, patients = np.sum(right[number], axis=0)
        accuracy = group.metrics["accuracy"]
        assert isinstance(accuracy, Estimate)
        if patients:
            assert accuracy.value == pytest.approx(hits / patients), group.value
        else:
            assert accuracy.value is None
    rows, noise = run.evaluation._noised(total, shape)
    assert noise == pytest.approx(NOISE_SD * 3**0.5 * total_noise(groups))
    hits, patients = np.sum(right[-1], axis=0)
    assert rows.sum() == pytest.approx(patients)
    accuracy = task.private_metrics(rows, noise)["accuracy"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value == pytest.approx(hits / patients)
