"""A site that evaluates in subgroups: what it sends, what it refuses, and that other jobs send what they always sent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import job_text, toy_site
from tests.people import OPTIONS, with_subgroups, write_people

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.private_training import PrivateTrainer
from salus.client.running import RunningJob
from salus.client.site import Site
from salus.client.training import Trainer
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.subgroups import groups_of
from salus.common.subgroups.exact import from_entries, grouped_size
from salus.common.sums.exact import exact_size, from_limbs, to_limbs
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.common.verdict import read_verdict
from salus.privacy.dp.plan import plan_of
from salus.privacy.shapes import COHORT

POLICY = Policy(allow_unprotected=True, allow_without_noise=True)
PLAIN = {"protection": "masking", "training": "validation_fraction = 0.5", "rounds": 1}


@pytest.fixture
def coordinator() -> Identity:
    return Identity.generate()


def people_site(folder: Path, coordinator: Identity, policy: Policy = POLICY, patients: int = 40) -> Site:
    site = toy_site(folder, 1, coordinator.public_key, policy, sites=5)
    catalogue = Catalogue(folder / "people.sqlite", b"secret for tests")
    catalogue.add("toy", "images", write_people(folder / "people", patients=patients, others=2), OPTIONS)
    site._catalogue = catalogue
    return site


def model_of(job: Job) -> bytes:
    model = build_model(job.task, 0)
    layout = layout_of(model)
    return layout.encode(read_parameters(model, layout))


def asked(coordinator: Identity, job: Job, kind: str, round_: int) -> Request:
    return Request(
        kind=kind, job_id="tiny-0001", job=seal_job(job, coordinator), round=round_, attempt=0, sites=(1, 2, 3, 4, 5)
    )  # type: ignore[arg-type]


def sent(site: Site, coordinator: Identity, job: Job, kind: str = "evaluate") -> tuple[RunningJob, np.ndarray]:
    """Return the running job and the statistics of this site's answer, before they are protected."""
    request = asked(coordinator, job, kind, 1 if kind == "train" else 2)
    running = site._accept(request)
    assert isinstance(running, RunningJob)
    found = running.contribution(request, model_of(job), running.shape(request, kind), 1)  # type: ignore[arg-type]
    return running, found.statistics


def test_a_job_without_subgroups_sends_what_it_always_sent(tmp_path: Path, coordinator: Identity) -> None:
    job = parse_job(job_text(**PLAIN))  # type: ignore[arg-type]
    strict = POLICY.model_copy(
        update={"min_patients_per_cell": 50}
    )  # more than there are: without subgroups it means nothing
    site = people_site(tmp_path, coordinator, strict)
    for kind in ("train", "evaluate"):
        running, statistics = sent(site, coordinator, job, kind)
        data = running.data
        assert data is not None
        assert 0 < data.validation.patients < 50
        start = read_parameters(build_model(job.task, 0), running.trainer.layout)
        metrics = running.trainer.evaluate(start, data.validation)
        cohort = [data.train.patients, len(data.train), sum(data.left_out.values()), 0]
        wanted = np.concatenate([metrics / 50, to_limbs(np.array(cohort, float))])
        assert statistics.tobytes() == wanted.tobytes()


def test_subgroups_follow_what_is_always_sent_and_only_in_the_evaluation(tmp_path: Path, coordinator: Identity) -> None:
    plain, grouped = parse_job(job_text(**PLAIN)), parse_job(with_subgroups(job_text(**PLAIN)))  # type: ignore[arg-type]
    for kind in ("train", "evaluate"):
        _, before = sent(people_site(tmp_path / f"{kind}-a", coordinator), coordinator, plain, kind)
        _, after = sent(people_site(tmp_path / f"{kind}-b", coordinator), coordinator, grouped, kind)
        assert after[: len(before)].tobytes() == before.tobytes()
        extra = grouped_size(groups_of(grouped), make_task(grouped.task).statistics_size) if kind == "evaluate" else 0
        assert len(after) == len(before) + extra


def test_a_site_with_too_few_validation_patients_evaluates_nothing(tmp_path: Path, coordinator: Identity) -> None:
    """Otherwise the total minus all groups would be these few."""
    job = parse_job(with_subgroups(job_text(**PLAIN), more="min_patients = 15"))  # type: ignore[arg-type]
    size, groups = make_task(job.task).statistics_size, groups_of(job)
    for patients, counted in ((60, True), (20, False)):
        site = people_site(tmp_path / str(patients), coordinator, patients=patients)
        for kind in ("train", "evaluate"):
            running, statistics = sent(site, coordinator, job, kind)
            assert (statistics[0] > 0) == counted
            assert from_limbs(statistics[size : size + exact_size(len(COHORT))])[0] > 0, "it trains all the same"
        found = from_entries(statistics[size + exact_size(len(COHORT)) :], groups, size, 50.0)
        assert (found.everyone > 0) == counted
        assert running.data is not None
        assert (running.data.validation.patients >= 15) == counted


def test_a_site_that_fails_sends_as_much_as_one_without_patients(
    tmp_path: Path, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = parse_job(with_subgroups(job_text(**PLAIN)))  # type: ignore[arg-type]
    site = people_site(tmp_path, coordinator)
    _, good = sent(site, coordinator, job)

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Trainer, "evaluate", broken)
    _, bad = sent(site, coordinator, job)
    size, groups = make_task(job.task).statistics_size, groups_of(job)
    assert len(bad) == len(good)
    assert not bad[:size].any()
    found = from_entries(bad[size + exact_size(len(COHORT)) :], groups, size, 50.0)
    assert not found.rows.any()
    assert not found.patients.any()
    assert found.everyone == 0


def test_results_at_single_sites_need_the_operators_consent_before_data_are_read(
    tmp_path: Path, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = parse_job(with_subgroups(job_text(**PLAIN), '["site"]', "sites = [2, 3]"))  # type: ignore[arg-type]
    allowing = people_site(tmp_path / "a", coordinator, POLICY.model_copy(update={"allow_site_results": True}))
    running, statistics = sent(allowing, coordinator, job)
    size = running.trainer.task.statistics_size
    found = from_entries(statistics[size + exact_size(len(COHORT)) :], running.groups, size, 50.0)
    assert found.patients.tolist() == [0, 0, found.everyone], "site 1 is not listed"
    refusing = people_site(tmp_path / "b", coordinator)
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    reply, _ = refusing.handle(asked(coordinator, job, "train", 1), model_of(job))
    assert (reply.kind, reply.error) == ("refused", "Refused")
    assert "allow_site_results" in reply.text
    check = Request(kind="check", job_id="tiny-0001", job=seal_job(job, coordinator), round=1, attempt=0, sites=(1,))
    verdict = read_verdict(refusing.handle(check, b"")[1])
    assert [problem.requirement for problem in verdict.problems] == ["policy"]


def test_other_bands_of_age_are_another_question(tmp_path: Path, coordinator: Identity) -> None:
    """The sums below 40 and below 41 years differ by the patients of 40 years."""
    site = people_site(tmp_path, coordinator)

    def answer(edges: str, attempt: int) -> tuple[str, str]:
        text = with_subgroups(job_text(**PLAIN), '["age"]', f"age_edges = {edges}")  # type: ignore[arg-type]
        request = asked(coordinator, parse_job(text), "train", 1).model_copy(update={"attempt": attempt})
        reply = site.handle(request, model_of(parse_job(text)))[0]
        return reply.kind, reply.text

    assert answer("[40]", 0)[0] == "ok"
    kind, text = answer("[41]", 1)
    assert kind == "refused"
    assert "subgroups: age" in text
    assert answer("[40]", 2)[0] == "ok"


NOISED = 'noise = "{}"\nepsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 40'


def test_with_noise_one_patient_moves_the_whole_vector_by_at_most_the_sensitivity(tmp_path: Path) -> None:
    text = job_text(protection="masking", privacy=NOISED.format("distributed"), training="validation_fraction = 0.5")
    job = parse_job(with_subgroups(text, '["sex", "age", "vendor"]'))
    catalogue = Catalogue(tmp_path / "c.sqlite", b"secret for tests")
    catalogue.add("toy", "images", write_people(tmp_path / "people", patients=12), OPTIONS)
    task, plan = make_task(job.task), plan_of(job)
    assert plan is not None
    data = local_data(catalogue, job, task, Memory(2**24)).validation
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu", threads=1))
    private = PrivateTrainer(trainer, plan, lambda n: bytes(n))
    start = read_parameters(model, trainer.layout)
    whole = private.statistics(start, data)
    assert len(whole) == task.private_statistics_size * (1 + groups_of(job).count)
    unit = groups_of(job).norm_l2
    rows = torch.from_numpy(whole).reshape(1 + groups_of(job).count, -1) * unit
    for block in groups_of(job).blocks.values():  # without noise, the groups of an attribute add up to the total
        assert torch.allclose(rows[1:][block].sum(0), rows[0])
    changes = []
    everyone = data.by_patient()
    for gone in range(len(everyone)):
        data.by_patient = lambda gone=gone: everyone[:gone] + everyone[gone + 1 :]  # type: ignore[method-assign, misc]
        changes.append(float(np.linalg.norm(whole - private.statistics(start, data))))
    assert max(changes) <= 1 + 1e-9
    assert max(changes) > 0.99  # reached, so a smaller norm would be found
