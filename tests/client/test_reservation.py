"""A job with noise reads the patients in whose name its cost was reserved, and no others; what is refused costs nothing."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job, toy_catalogue, toy_site, write_npz

from salus.client import preparing as preparing_module
from salus.client.data.sources.settings import SourceOptions
from salus.client.measuring import Measurer
from salus.client.policy import Policy
from salus.client.running import RunningJob
from salus.client.site import Site
from salus.common.events import read_events
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.packets import Reply, Request
from salus.common.sums import sums_of
from salus.common.sums.base import norm_of
from salus.common.vectors import layout_of, read_parameters
from salus.common.verdict import read_verdict
from salus.privacy.dp.plan import Plan, plan_of
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.store import MemoryStore

PRIVATE = 'noise = "distributed"\nepsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 20\n'
STATISTICS = """
[job]
name = "measure"
rounds = 1
min_sites = 2
[task]
dataset = "toy"
classes = ["no", "yes"]
[aggregation]
protection = "masking"
max_patients = 100
[privacy]
noise = "distributed"
epsilon = 8.0
[statistics]
kind = "nyul"
intensity_high = 1.0
bins = 16
"""


@pytest.fixture
def coordinator() -> Identity:
    return Identity.generate()


@pytest.fixture
def site(tmp_path: Path, coordinator: Identity) -> Site:
    return toy_site(tmp_path, 1, coordinator.public_key, Policy(min_sites=2))


def job_of(kind: str) -> Job:
    return parse_job(STATISTICS) if kind == "measure" else tiny_job(protection="masking", privacy=PRIVATE)


def model_of(job: Job, value: float | None = None) -> bytes:
    model = build_model(job.task, 0)
    layout = layout_of(model)
    parameters = read_parameters(model, layout)
    if value is not None:
        parameters[0] = value
    return layout.encode(parameters)


def ask(site: Site, coordinator: Identity, job: Job, round_: int, blob: bytes) -> Reply:
    return site.handle(
        Request(
            kind="train",
            job_id="tiny-0001",
            job=seal_job(job, coordinator),
            round=round_,
            attempt=0,
            sites=(1, 2, 3),
        ),
        blob,
    )[0]


def grow(site: Site, folder: Path) -> None:
    """Register the data set again, with as many patients more, as an operator may do while a job runs."""
    known, more = np.load(folder / "toy.npz"), np.load(write_npz(folder / "more.npz", seed=9))
    np.savez(folder / "grown.npz", **{name: np.concatenate([known[name], more[name]]) for name in known.files})
    site._catalogue.remove("toy")
    site._catalogue.add("toy", "medmnist", folder / "grown.npz", SourceOptions())
    site._running = None  # the site is started again


def trained_on(folder: Path) -> list[int]:
    return [int(e.fields["patients"]) for e in read_events(folder / "events.jsonl") if e.kind == "trained"]


def trains_on_the_reserved_ones(site: Site, coordinator: Identity, folder: Path) -> bool:
    job = job_of("train")
    assert ask(site, coordinator, job, 1, model_of(job)).kind == "ok"
    reserved = frozenset(image.patient for image in site._catalogue.images("toy"))
    grow(site, folder)
    assert len({image.patient for image in site._catalogue.images("toy")}) > len(reserved)
    assert ask(site, coordinator, job, 2, model_of(job)).kind == "ok"
    first, second = trained_on(folder)
    running = site._running
    items = [*running.data.train._items, *running.data.validation._items]  # type: ignore[union-attr]
    return second <= first and {item.image.patient for item in items} <= reserved


def test_training_reads_the_patients_of_the_reservation_only(site: Site, coordinator: Identity, tmp_path: Path) -> None:
    assert trains_on_the_reserved_ones(site, coordinator, tmp_path)


def test_training_on_everybody_in_the_data_set_is_caught(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = preparing_module.local_data
    monkeypatch.setattr(preparing_module, "local_data", lambda *given: right(*given[:4], None))
    assert not trains_on_the_reserved_ones(site, coordinator, tmp_path)


def measures_the_reserved_ones(site: Site, coordinator: Identity, folder: Path) -> bool:
    job = job_of("measure")
    sums = sums_of(job)
    site.prepare(job, b"document", "tiny-0001")
    reserved = len({image.patient for image in site._catalogue.images("toy")})
    grow(site, folder)
    running = site.prepare(job, b"document", "tiny-0001")
    plan = plan_of(job)
    assert plan is not None
    total = running.measurer.noised(1, (), plan)  # type: ignore[attr-defined]  # distributed: without this site's noise
    return round(float(total[0]) * norm_of(sums, 1)) == reserved


def test_statistics_read_the_patients_of_the_reservation_only(
    site: Site, coordinator: Identity, tmp_path: Path
) -> None:
    assert measures_the_reserved_ones(site, coordinator, tmp_path)


def test_statistics_on_everybody_in_the_data_set_are_caught(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everybody(catalogue, job, sums, patients, *more):  # type: ignore[no-untyped-def]
        return Measurer(catalogue, job, sums, frozenset(i.patient for i in catalogue.images("toy")), *more)

    monkeypatch.setattr(preparing_module, "Measurer", everybody)
    assert not measures_the_reserved_ones(site, coordinator, tmp_path)


def test_a_measurer_counts_nobody_else(tmp_path: Path) -> None:
    job = job_of("measure")
    catalogue = toy_catalogue(tmp_path)
    some = frozenset(sorted({image.patient for image in catalogue.images("toy")})[:7])
    silent = Plan("distributed", 1.0, 0.0, 1.0, 1, 1, 5.0, 1e-5)
    measurer = Measurer(catalogue, job, sums_of(job), some, lambda: 1, os.urandom)
    assert round(float(measurer.noised(1, (), silent)[0]) * norm_of(sums_of(job), 1)) == 7


def test_patients_that_add_nothing_are_the_operators_to_know(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of("train")
    assert ask(site, coordinator, job, 1, model_of(job)).kind == "ok"
    running = site._running
    assert isinstance(running, RunningJob)
    assert running.private is not None
    assert running.trouble() is None

    def fails(*_: object) -> object:
        raise RuntimeError("patient 7")

    monkeypatch.setattr(running.private.trainer._clipper, "clipped_sum", fails)
    assert ask(site, coordinator, job, 2, model_of(job)).kind == "ok"
    trouble = running.trouble()
    assert trouble is not None
    assert "RuntimeError" in trouble.problem
    assert "patient 7" not in trouble.problem + (tmp_path / "events.jsonl").read_text()
    assert not running.private.broken


@pytest.mark.parametrize("value", [1e7, -1e20, 3e38])
def test_a_model_made_to_overflow_is_refused_before_anything_is_spent(
    site: Site, coordinator: Identity, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of("train")
    assert ask(site, coordinator, job, 1, model_of(job)).kind == "ok"  # the first model is the one that the seed gives
    spent: list[object] = []
    right = type(site._ledger).commit
    monkeypatch.setattr(type(site._ledger), "commit", lambda *given: (spent.append(given), right(*given))[1])
    reply = ask(site, coordinator, job, 2, model_of(job, value))
    assert (reply.kind, reply.error) == ("refused", "WireError")
    assert "Expected model parameters between" in reply.text
    assert not spent
    assert ask(site, coordinator, job, 2, model_of(job)).kind == "ok"
    assert len(spent) == 1


def test_a_restored_ledger_that_has_grown_since_is_refused(site: Site, coordinator: Identity) -> None:
    """Closing finished jobs makes a ledger longer, and a coordinator's check closes them: length alone proves nothing."""
    job = job_of("train")
    assert ask(site, coordinator, job, 1, model_of(job)).kind == "ok"
    assert site._ledger.head().length == 2
    site._store, site._running = MemoryStore(), None
    site._store.ledger_seen(1, Head(1, bytes([7]) * 32))  # what was first entered, before the backup was restored
    reply = ask(site, coordinator, job, 2, model_of(job))
    assert (reply.kind, reply.error) == ("refused", "ProtectionError")
    assert "rolled back" in reply.text
    assert site._ledger.head().length == 2


@pytest.mark.parametrize("protection", ["masking", "none"])
def test_what_was_spent_is_remembered_outside_the_ledger_before_anything_leaves(
    tmp_path: Path, coordinator: Identity, protection: str
) -> None:
    job = tiny_job(protection=protection, privacy=PRIVATE.replace("distributed", "local"))
    site = toy_site(tmp_path, 1, coordinator.public_key, Policy(min_sites=2, allow_unprotected=True))
    assert ask(site, coordinator, job, 1, model_of(job)).kind == "ok"
    assert site._store.ledger_head(1) == site._ledger.head()


@pytest.mark.parametrize("kind", ["train", "check"])
def test_a_job_whose_evaluation_can_never_be_summed_is_refused_before_anything_is_reserved(
    site: Site, coordinator: Identity, kind: str
) -> None:
    job = job_of("train")
    job = job.model_copy(update={"aggregation": job.aggregation.model_copy(update={"max_patients": 200_000})})
    request = Request(
        kind=kind, job_id="tiny-0001", job=seal_job(job, coordinator), round=1, attempt=0, sites=(1, 2, 3)
    )  # type: ignore[arg-type]
    reply, blob = site.handle(request, model_of(job))
    if kind == "check":
        assert [problem.requirement for problem in read_verdict(blob).problems] == ["protection"]
    else:
        assert reply.kind == "refused"
        assert "does not fit in 31 bits" in reply.text
    assert site._ledger.head() == Head(0, bytes(32))
