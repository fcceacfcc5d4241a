"""Membership inference through the product's own path."""

from pathlib import Path

import numpy as np
import torch
from tests.builders import job_text
from tests.simulations.auditing.test_audit import asked, hospitals, private_job  # noqa: F401  (a fixture)

from salus.client.data.loading import Memory, local_data
from salus.client.data.tensors import Use
from salus.common.job import parse_job
from salus.common.tasks import make_task
from salus.simulations.auditing.cohort import Cohort, patients_of
from salus.simulations.auditing.membership import Membership
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN
from salus.simulations.virtual import open_catalogue


def test_a_model_that_learns_its_patients_by_heart_is_told_and_a_noised_one_is_not(
    hospitals: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    training = 'optimizer = "sgd"\nlocal_epochs = 40'
    job = parse_job(
        job_text(rounds=1, min_sites=3, protection="masking", training=training).replace("[8, 8]", "[16, 16]")
    )
    plain, masked = Membership().tried(asked(job, hospitals, tmp_path / "bare", (PLAIN, MASKED), sites=5))
    assert plain.interval is not None
    assert plain.interval[0] > 0.5
    assert plain.value is not None
    assert plain.value > 0.65
    assert masked.value is not None
    assert masked.value < plain.value
    assert plain.details["true positives at 10% false ones"] > 0.1
    (noised,) = Membership().tried(asked(private_job("local", 1.0), hospitals, tmp_path / "noised", (NOISED,)))
    assert noised.interval is not None
    assert noised.interval[0] < 0.5 < noised.interval[1]
    assert "not more than a guess" in noised.plainly


def test_a_cohort_holds_the_samples_of_its_patients(hospitals: Path) -> None:  # noqa: F811
    job = private_job("local", 1.0)
    sets = [
        local_data(open_catalogue(hospitals, site), job, make_task(job.task), Memory(2**24)).train for site in (1, 2)
    ]
    first, second = (patients_of(data) for data in sets)
    cohort = Cohort([first[2], second[0], first[0]])
    assert len(cohort) == cohort.patients == len(cohort.by_patient()) == 3
    batch = cohort.batch(torch.tensor([1, 2, 0]), Use(b""))
    for place, patient in enumerate((second[0], first[0], first[2])):
        assert torch.equal(batch["image"][place], patient.data.batch(torch.tensor(patient.rows))["image"][0])
    assert np.array_equal(cohort.targets()[1:2], second[0].data.targets()[list(second[0].rows)])
    assert [len(part) for part in cohort.parts(torch.arange(3), 2)] == [2, 1]
