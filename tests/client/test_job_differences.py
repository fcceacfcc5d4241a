"""Two jobs without noise that differ in how they select or weigh patients: their difference shows one site."""

from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, toy_catalogue
from tests.server.test_rounds import World

from salus.client.data.loading import Memory, local_data
from salus.client.model_checks import first_model
from salus.client.site import Site
from salus.client.training import training_seed
from salus.common.errors import RoundError
from salus.common.events import EventLog
from salus.common.job import Job, parse_job, seal_job
from salus.common.packets import Request
from salus.common.verdict import read_verdict
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.rounds import JobRun

LARGE = 100  # training patients of the first site; the others have 40


def masked(**changes: object) -> Job:
    """Return a masked job; keywords replace settings, as in ``batch_size=16``."""
    text = job_text(protection="masking", rounds=1, model="cnn", training="validation_fraction = 0.2")
    text = text.replace("max_patients = 50", "max_patients = 50\nupdate_clip_norm_l2 = 100.0")
    for name, value in changes.items():
        before = next(line for line in text.splitlines() if line.startswith(f"{name} ="))
        text = text.replace(before, f"{name} = {value}")
    return parse_job(text)


class Coordinator:
    """A coordinator that keeps what it is given, over five sites of which the first is the largest."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, masked(), sites=5)
        self.first: Site = self.world.sites.sites[1]
        self.first._catalogue = toy_catalogue(folder / "large", seed=9, images=LARGE)

    def total(self, job: Job) -> tuple[np.ndarray, float]:
        """Return the sum of the weighted updates of round 1, and of the weights, both times `max_patients`."""
        world = self.world
        signed = seal_job(job, world.coordinator)
        attempts = Attempts(
            job, world.store.submit(signed, job.job.name), signed, world.sites, world.store,
            EventLog(listeners=(world.events.append,)), world.keys, world.transcript,
        )  # fmt: skip
        run = JobRun(attempts)
        shape = run._shape("train")
        vector = attempts.sum(1, "train", run.layout.encode(run.model), shape).vector
        most = job.aggregation.max_patients
        return most * vector[: shape.parameters], most * float(vector[shape.parameters])

    def update_of_first(self, job: Job) -> np.ndarray:
        """Return what the attacker wants: the first site's own update."""
        running = self.first._running
        assert running is not None
        trainer = running.trainer  # type: ignore[attr-defined]
        data = local_data(self.first._catalogue, job, trainer.task, Memory(10**8))
        update: np.ndarray = trainer.train(first_model(job, trainer.layout), data.train, training_seed(job, 1, 1))
        return update


def stepped(momentum: float) -> Job:
    """Return a job in which only the first site takes a second step."""
    job = masked(batch_size=80, max_patients=LARGE, learning_rate=0.01)
    training = job.training.changed(optimizer="sgd", momentum=momentum)
    return job.model_copy(update={"training": training})


LOW, HIGH = masked(max_patients=40), masked(max_patients=LARGE)


def test_the_attack_without_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are min(patients, bound). Where one site only has more patients than the lower bound, the difference of two sums
    is that site's update, and the difference of their weights its number of patients."""
    monkeypatch.setattr(MemoryStore, "ask", lambda *_, **__: None)
    coordinator = Coordinator(tmp_path)
    (low, few), (high, many) = coordinator.total(LOW), coordinator.total(HIGH)
    wanted = coordinator.update_of_first(HIGH)
    assert round(many - few) == LARGE - 40
    assert np.abs((high - low) / (many - few) - wanted).max() < 1e-3 * np.abs(wanted).max() + 1e-5


def test_momentum_without_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other sites take one step, whatever the momentum, so the difference of two sums is the first site's alone."""
    monkeypatch.setattr(MemoryStore, "ask", lambda *_, **__: None)
    coordinator = Coordinator(tmp_path)
    totals, own = [], []
    for momentum in (0.9, 0.0):
        totals.append(coordinator.total(stepped(momentum))[0])
        own.append(coordinator.update_of_first(stepped(momentum)))
    found, wanted = (totals[0] - totals[1]) / LARGE, own[0] - own[1]
    assert np.abs(wanted).max() > 1e-4
    assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()


def test_a_second_job_with_another_momentum_is_refused(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path)
    coordinator.total(stepped(0.9))
    with pytest.raises(RoundError):
        coordinator.total(stepped(0.0))
    left_out = [event.fields for event in coordinator.world.events if event.kind == "left-out"]
    assert all("momentum" in str(fields["text"]) for fields in left_out)


def test_a_second_job_with_another_bound_is_refused_by_every_site(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path)
    coordinator.total(LOW)
    with pytest.raises(RoundError):
        coordinator.total(HIGH)
    left_out = [event.fields for event in coordinator.world.events if event.kind == "left-out"]
    assert {fields["site"] for fields in left_out} == {1, 2, 3, 4, 5}
    assert all("aggregation.max_patients" in str(fields["text"]) for fields in left_out)
    coordinator.total(masked(max_patients=40, learning_rate=0.01))  # what is the same at every site may change


def test_a_check_says_beforehand_that_such_a_job_would_be_refused_and_pins_nothing(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path)

    def said(job: Job) -> list[str]:
        request = Request(kind="check", job=seal_job(job, coordinator.world.coordinator))
        reply, blob = coordinator.first.handle(request, b"")
        assert reply.kind == "ok", reply.text
        return [problem.text for problem in read_verdict(blob).problems]

    assert said(HIGH) == said(LOW) == []
    coordinator.total(LOW)
    assert said(LOW) == []
    (text,) = said(HIGH)
    assert "aggregation.max_patients" in text
