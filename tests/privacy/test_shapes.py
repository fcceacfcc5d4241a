"""Every shape of a job is known, and checked by every protection, before the job begins."""

from dataclasses import replace

import pytest
from tests.builders import job_text, tiny_job

from salus.common.errors import JobError, ProtectionError
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.vectors import layout_of
from salus.privacy.protection import protection_of
from salus.privacy.shapes import shapes_of
from salus.server.checks import check_job

STATISTICS = """
[job]
name = "ages"
rounds = 1
[task]
dataset = "toy"
classes = ["no", "yes"]
columns = [{ name = "age" }]
[aggregation]
protection = "PROTECTION"
max_patients = PATIENTS
HOLDER
[statistics]
kind = "summary"
[privacy]
noise = "NOISE"
"""


def measuring(protection: str, noise: str, patients: int = 100) -> Job:
    text = STATISTICS.replace("PROTECTION", protection).replace("NOISE", noise).replace("PATIENTS", str(patients))
    return parse_job(text.replace("HOLDER", "key_holder = 1" if protection == "encryption" else ""))


def training(protection: str, noise: str, patients: int = 100, clip: float = 100.0) -> Job:
    text = job_text(protection=protection, privacy=f'noise = "{noise}"')
    holder = "key_holder = 1\n" if protection == "encryption" else ""
    return parse_job(
        text.replace("max_patients = 50\n", f"max_patients = {patients}\nupdate_clip_norm_l2 = {clip}\n{holder}")
    )


def test_the_shapes_are_those_of_the_rounds() -> None:
    job = training("masking", "none")
    parameters = layout_of(build_model(job.task, 0)).size
    train, evaluate = shapes_of(job)
    assert (train.kind, train.parameters, evaluate.kind, evaluate.parameters) == ("train", parameters, "evaluate", 0)
    assert train.statistics == evaluate.statistics > 0
    noised, measured = shapes_of(training("masking", "local"))
    assert (noised.parameters, noised.statistics, measured.statistics) == (parameters, 0, 0)
    assert measured.parameters > 0
    assert [shape.kind for shape in shapes_of(measuring("masking", "none"))] == ["measure"]


def test_a_job_without_an_evaluation_has_no_shape_for_it() -> None:
    job = tiny_job(privacy='noise = "local"\nevaluation_share = 0.0')
    assert [shape.kind for shape in shapes_of(job)] == ["train"]


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_bound_on_patients_that_only_the_evaluation_exceeds_is_refused_when_the_job_is_submitted(noise: str) -> None:
    """Formerly only an invented vector was checked: such a job was refused in its last round, with all budget spent."""
    check_job(training("masking", noise, 1000), 5)
    with pytest.raises(ProtectionError, match="does not fit in 31 bits"):
        check_job(training("masking", noise, 200_000), 5)


@pytest.mark.parametrize(
    "job",
    [
        training("encryption", "local", 10**9),
        training("encryption", "none", clip=1e9),
        training("masking", "none", clip=1e9),
        measuring("masking", "local", 10**6),
        measuring("encryption", "local", 10**9),
    ],
    ids=lambda job: f"{job.job.name} {job.aggregation.protection} {job.privacy.noise}",
)
def test_every_protection_checks_every_shape(job: Job) -> None:
    with pytest.raises(ProtectionError, match="fit"):
        check_job(job, 5)


@pytest.mark.parametrize("protection", ["masking", "encryption"])
@pytest.mark.parametrize("make", [training, measuring])
@pytest.mark.parametrize("place", [0, -1])
def test_no_shape_is_left_out(make: object, protection: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever shape is too large, first or last, the protection refuses the job."""
    job: Job = make(protection, "none")  # type: ignore[operator]
    shapes = list(shapes_of(job))
    protection_of(job).check(job, 5)
    shapes[place] = replace(shapes[place], clip_norm_l2=1e12)
    monkeypatch.setattr(f"salus.privacy.{protection}.protection.shapes_of", lambda *_: tuple(shapes))
    with pytest.raises(ProtectionError):
        protection_of(job).check(job, 5)


def test_an_unknown_model_is_a_job_error() -> None:
    job = tiny_job()
    with pytest.raises(JobError):
        shapes_of(job.model_copy(update={"task": job.task.model_copy(update={"model": "unknown"})}))
