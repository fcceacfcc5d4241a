"""Every way in which a site uses patients, and a withdrawal between two steps or in the middle of one, by another connection."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import job_text, tiny_job, toy_catalogue, toy_site
from tests.server.test_rounds import World

from salus.client import measuring, private_training
from salus.client.data.catalogue import Catalogue, CataloguedImage
from salus.client.data.prefetch import batches
from salus.client.data.readiness import check
from salus.client.data.tensors import TensorSet
from salus.client.explaining.reading import known_dataset
from salus.client.ledger.store import Budget
from salus.client.policy import Policy
from salus.client.predicting.evaluation import _held_out
from salus.client.predicting.inputs import from_dataset
from salus.client.running import RunningJob
from salus.client.site import Site
from salus.common.errors import RoundError, UnreadableImage
from salus.common.events import read_events
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.packets import Reply, Request
from salus.common.sums import sums_of
from salus.common.sums.base import norm_of
from salus.common.sums.exact import from_limbs
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.contribution import Contribution, DataKind
from salus.privacy.protocol.contributors import Consent
from salus.server.transcripts import Transcript

HEAD = "0/" + "0" * 64
NOISE = 'noise = "{mode}"\nepsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 40\nevaluation_share = 0.3\n'
STEPS = "steps_per_round = 3\n"
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
noise = "none"
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
    policy = Policy(allow_unprotected=True, allow_without_noise=True, budget=Budget(epsilon=1000.0))
    return toy_site(tmp_path, 1, coordinator.public_key, policy, sites=5)


def elsewhere(folder: Path) -> Catalogue:
    """The catalogue as another process opens it."""
    return Catalogue(folder / "catalogue.sqlite", b"secret for tests")


def of_split(catalogue: Catalogue, split: str) -> list[str]:
    return sorted({image.patient for image in catalogue.images("toy") if image.split == split})


def withdraw(folder: Path, patient: str) -> None:
    elsewhere(folder).withdrawals.withdraw([patient], HEAD)


def private(mode: str) -> Job:
    extra = STEPS if mode == "local" else ""
    return tiny_job(
        rounds=4, privacy=NOISE.format(mode=mode) + extra, protection="none" if mode == "local" else "masking"
    )


def ask(site: Site, coordinator: Identity, job: Job, round_: int, kind: str = "train") -> Reply:
    blob = b"[]"
    if kind != "measure":
        model = build_model(job.task, 0)
        layout = layout_of(model)
        blob = layout.encode(read_parameters(model, layout))
    request = Request(
        kind=kind, job_id="tiny-0001", job=seal_job(job, coordinator), round=round_, attempt=0, sites=(1, 2, 3, 4, 5)
    )  # type: ignore[arg-type]
    return site.handle(request, blob)[0]


class Seen:
    """The patients whose samples left a `TensorSet`, and what happens between two batches."""

    def __init__(self, patch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None) -> None:
        self.batches: list[set[str]] = []
        right = TensorSet.batch

        def batch(data: TensorSet, rows: torch.Tensor, *more: object) -> object:
            found = right(data, rows, *more)  # type: ignore[arg-type]
            self.batches.append({data._items[int(row)].image.patient for row in rows})
            then()
            return found

        patch.setattr(TensorSet, "batch", batch)


def everybody(patch: pytest.MonkeyPatch) -> None:
    """Every step draws every patient."""
    patch.setattr(private_training, "poisson_sample", lambda count, rate, stream: np.arange(count))


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_noise_a_withdrawn_patient_is_never_drawn_again(
    site: Site, coordinator: Identity, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = private(mode)
    assert ask(site, coordinator, job, 1).kind == "ok"
    train, val = of_split(site._catalogue, "train")[0], of_split(site._catalogue, "val")[0]
    running = site._running
    for patient in (train, val):
        withdraw(tmp_path, patient)
    everybody(monkeypatch)
    seen = Seen(monkeypatch)
    assert ask(site, coordinator, job, 2).kind == "ok"
    assert ask(site, coordinator, job, 5, "evaluate").kind == "ok"
    read = set().union(*seen.batches)
    assert len(read) > 50
    assert not read & {train, val}
    assert site._running is running, (
        "nothing was prepared again: the others cannot see it by the time that a round takes"
    )
    assert isinstance(running, RunningJob)
    assert running.data is not None
    assert not set(running.data.used()) & {train, val}
    assert running.trouble() is None, "with noise a withdrawal is no trouble"


def test_noise_in_the_middle_of_a_round_the_next_step_leaves_the_patient_out(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step draws every patient; the patient withdraws while the first step computes."""
    job = private("local")
    patient = of_split(site._catalogue, "train")[-1]
    steps: list[int] = []

    def sample(count: int, rate: float, stream: object) -> np.ndarray:
        steps.append(len(seen.batches))
        if len(steps) == 2:
            withdraw(tmp_path, patient)
        return np.arange(count)

    monkeypatch.setattr(private_training, "poisson_sample", sample)
    seen = Seen(monkeypatch)
    assert ask(site, coordinator, job, 1).kind == "ok"
    assert len(steps) == 3
    assert any(patient in batch for batch in seen.batches[: steps[1]])
    assert not any(patient in batch for batch in seen.batches[steps[1] :])
    trained = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "trained"]
    assert trained[-1].fields["left_out"] == {"withdrawn": 2}


def test_without_noise_the_round_of_a_withdrawal_is_given_up(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(rounds=3, training="local_epochs = 3")
    patient = of_split(site._catalogue, "train")[0]

    def after_the_first() -> None:
        if len(seen.batches) == 2:
            withdraw(tmp_path, patient)

    seen = Seen(monkeypatch, after_the_first)
    reply = ask(site, coordinator, job, 1)
    assert (reply.kind, reply.error) == ("refused", "UnreadableImage")
    assert "withdr" not in reply.text
    assert not any(patient in batch for batch in seen.batches[2:])


@pytest.mark.parametrize("split", ["train", "val"])
def test_without_noise_the_round_is_given_up_also_if_the_patient_was_used_before_the_withdrawal(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """Otherwise the vector with the patient would still be sent."""

    def after_the_first() -> None:
        if len(seen.batches) == 2:  # of validation, then of training
            withdraw(tmp_path, min(seen.batches[0 if split == "val" else 1]))

    seen = Seen(monkeypatch, after_the_first)
    reply = ask(site, coordinator, tiny_job(rounds=3, training="local_epochs = 1"), 1)
    assert len(seen.batches) > 2, "no later batch has the patient"
    assert (reply.kind, reply.error) == ("refused", "UnreadableImage")


def test_a_batch_that_was_read_ahead_is_not_used_after_a_withdrawal(
    site: Site, coordinator: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(site, coordinator, tiny_job(rounds=3), 1).kind == "ok"
    running = site._running
    assert isinstance(running, RunningJob)
    assert running.data is not None
    on_disk = TensorSet(running.data.train._items, running.data.train._preparer, 0)
    ahead = threading.Event()
    seen = Seen(monkeypatch, lambda: ahead.set() if len(seen.batches) == 3 else None)
    given = batches(on_disk, torch.arange(len(on_disk)).split(1), torch.device("cpu"))
    next(given)
    assert ahead.wait(60)
    (patient,) = seen.batches[1]
    withdraw(tmp_path, patient)
    with pytest.raises(UnreadableImage, match="withdrawn"):
        next(given)


def test_without_noise_later_updates_end_and_the_coordinator_is_not_told_why(
    site: Site, coordinator: Identity, tmp_path: Path
) -> None:
    job = tiny_job(rounds=3)
    assert ask(site, coordinator, job, 1).kind == "ok"
    withdraw(tmp_path, of_split(site._catalogue, "train")[0])
    reply = ask(site, coordinator, job, 2)
    assert (reply.kind, reply.error) == ("refused", "DataError")
    assert "withdr" not in reply.text
    assert "withdrawn" in (tmp_path / "events.jsonl").read_text(), "the operator is told"
    again = tiny_job(rounds=2)
    assert ask(site, coordinator, again, 1).error == "DataError", "another job in this epoch is the same question"
    text = job_text(rounds=3).replace("[task]", "cohort_epoch = 1\n[task]", 1)
    site._policy = lambda: Policy(allow_unprotected=True, allow_without_noise=True, cohort_epochs={"toy": 1})
    assert ask(site, coordinator, parse_job(text), 1).kind == "ok"


def test_without_noise_and_without_an_earlier_sum_training_goes_on_without_the_patient(
    site: Site, coordinator: Identity, tmp_path: Path
) -> None:
    patient = of_split(site._catalogue, "train")[0]
    withdraw(tmp_path, patient)
    assert ask(site, coordinator, tiny_job(rounds=3), 1).kind == "ok"
    assert site._catalogue.uses.of([patient]) == []
    trained = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "trained"]
    assert trained[-1].fields["patients"] == 39
    assert trained[-1].fields["left_out"] == {}, "the count of what is left out is summed over sites"


def masked(folder: Path, rounds: int, *, patient_of: int | None = None) -> World:
    world = World(folder, tiny_job(rounds=rounds, protection="masking"), sites=5)
    for one in world.sites.sites.values():
        one._policy = lambda: Policy(allow_without_noise=True)
    if patient_of is not None:
        save = world.store.save_round

        def withdrawing(*arguments: object, **keywords: object) -> Path:
            place = folder / f"s{patient_of}"
            withdraw(place, of_split(elsewhere(place), "train")[0])
            return save(*arguments, **keywords)  # type: ignore[arg-type]

        world.store.save_round = withdrawing  # type: ignore[method-assign, assignment]
    return world


def test_masked_sums_are_not_opened_after_a_withdrawal_and_nobody_else_knows_why(tmp_path: Path) -> None:
    world = masked(tmp_path, 2, patient_of=3)
    with pytest.raises(RoundError, match="not opened"):
        world.run()
    told = " ".join(str(event.fields) for event in world.events)
    for number in (1, 2, 4, 5):
        told += (tmp_path / f"s{number}" / "events.jsonl").read_text()
    told += (tmp_path / "transcript.jsonl").read_text()
    assert "withdr" not in told
    assert "has withdrawn" in (tmp_path / "s3" / "events.jsonl").read_text()
    assert elsewhere(tmp_path / "s3").troubles.all()[0].dataset == "toy"


def test_masked_sums_go_on_if_none_was_opened_before_the_withdrawal(tmp_path: Path) -> None:
    world = masked(tmp_path, 1)
    place = tmp_path / "s3"
    withdraw(place, of_split(elsewhere(place), "train")[0])
    world.run()
    assert [record["cohort"]["patients"] for record in world.store.records(world.job_id)] == [199]  # type: ignore[index]
    world.job_id = world.store.submit(world.signed, "again")
    world.transcript = Transcript(tmp_path / "again.jsonl")
    world.run()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Contribution]:
    """What would be masked and sent."""
    found: list[Contribution] = []
    monkeypatch.setattr(Site, "_protect", lambda *given: found.append(given[-1]) or b"")
    return found


def agreed(site: Site, *contributors: int) -> None:
    """Let the site have opened a sum over the data set."""
    site._store.open_session(b"earlier", "toy/0")
    consent = Consent(frozenset({1, 2, 3, 4, 5}), "masking", {DataKind.MEASURED: frozenset(contributors)})
    site._store.consent(b"earlier", consent)


def patients_in(contribution: Contribution) -> int:
    return round(float(from_limbs(contribution.statistics)[0]))


@pytest.mark.parametrize(("contributors", "later"), [((), 79), ((2, 3), 0), ((1, 2, 3), 0)])
def test_statistics_without_noise_end_after_a_sum_that_held_the_patient(
    site: Site,
    coordinator: Identity,
    tmp_path: Path,
    sent: list[Contribution],
    contributors: tuple[int, ...],
    later: int,
) -> None:
    """Not where no sum was opened; where only others contributed, the site is late, as without a withdrawal."""
    job = parse_job(STATISTICS)
    assert ask(site, coordinator, job, 1, "measure").kind == "ok"
    if contributors:
        agreed(site, *contributors)
    withdraw(tmp_path, of_split(site._catalogue, "test")[0])
    assert ask(site, coordinator, job, 1, "measure").kind == "ok"
    assert [patients_in(one) for one in sent] == [80, later]
    assert [one.data for one in sent] == [DataKind.MEASURED, DataKind.MEASURED if later else DataKind.NONE]
    said = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "contributed-nothing"]
    assert any("has withdrawn" in str(event.fields["text"]) for event in said) == (1 in contributors)


@pytest.mark.parametrize("noised", [False, True])
def test_statistics_in_the_middle_of_a_step(
    site: Site, coordinator: Identity, tmp_path: Path, sent: list[Contribution], noised: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    text = STATISTICS.replace('noise = "none"', 'noise = "distributed"\nepsilon = 8.0') if noised else STATISTICS
    last = sorted(site._catalogue.patients("toy"))[-1]
    read: list[str] = []
    right = measuring.read_registered

    def reading(source: object, image: CataloguedImage) -> object:
        read.append(image.patient)
        if len(read) == 1:
            withdraw(tmp_path, last)
        return right(source, image)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "read_registered", reading)
    assert ask(site, coordinator, parse_job(text), 1, "measure").kind == "ok"
    assert last not in read
    (one,) = sent
    if noised:  # before noise, which the protection adds
        assert round(float(one.update[0]) * norm_of(sums_of(parse_job(text)), 1)) == 79
    else:
        assert (patients_in(one), one.data) == (0, DataKind.NONE)


def test_statistics_of_a_patient_who_was_read_before_the_withdrawal(
    site: Site, coordinator: Identity, tmp_path: Path, sent: list[Contribution], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    right = measuring.read_registered

    def reading(source: object, image: CataloguedImage) -> object:
        read.append(image.patient)
        if len(set(read)) == 2:
            withdraw(tmp_path, read[0])
        return right(source, image)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "read_registered", reading)
    assert ask(site, coordinator, parse_job(STATISTICS), 1, "measure").kind == "ok"
    assert [(patients_in(one), one.data) for one in sent] == [(0, DataKind.NONE)]


def test_a_reservation_charges_only_who_is_left(site: Site, coordinator: Identity, tmp_path: Path) -> None:
    patient = of_split(site._catalogue, "train")[0]
    withdraw(tmp_path, patient)
    assert ask(site, coordinator, private("local"), 1).kind == "ok"
    assert site._ledger.places([patient]) == {}
    assert len(site._ledger.places([of_split(site._catalogue, "train")[0]])) == 1


def test_what_is_in_memory_of_an_idle_daemon_is_dropped(site: Site, coordinator: Identity, tmp_path: Path) -> None:
    assert ask(site, coordinator, private("local"), 1).kind == "ok"
    patient = of_split(site._catalogue, "train")[0]
    running = site._running
    assert isinstance(running, RunningJob)
    assert running.data is not None
    kept = running.data.train._whole
    assert kept is not None
    assert len(kept) == 40
    withdraw(tmp_path, patient)
    site.recheck()
    assert patient not in running.data.used()
    assert running.data.train._whole is not None
    assert len(running.data.train._whole) == 39


def test_commands_that_read_a_data_set(tmp_path: Path) -> None:
    catalogue = toy_catalogue(tmp_path)
    patient = of_split(catalogue, "val")[0]
    withdraw(tmp_path, patient)
    found_by_check = check(catalogue, "toy")
    assert (found_by_check.summary.patients, found_by_check.unreadable) == (79, [])
    found = from_dataset(catalogue, "toy")
    assert len(found.found) == 79
    shown = known_dataset(catalogue, "toy")
    assert patient not in {one.patient for one in shown.inputs.found}
    held_out = {item.image.patient for item in _held_out(catalogue, "toy", tiny_job(), make_task(tiny_job().task))}
    assert patient not in held_out
    assert set(of_split(catalogue, "val")) <= held_out


def test_a_site_without_training_patients_is_not_prepared_again_in_each_round(
    site: Site, coordinator: Identity, tmp_path: Path
) -> None:
    """With noise it goes on; and so it does when the last one withdraws."""
    for patient in of_split(site._catalogue, "train")[1:]:
        withdraw(tmp_path, patient)
    assert ask(site, coordinator, private("local"), 1).kind == "ok"
    withdraw(tmp_path, of_split(site._catalogue, "train")[0])
    assert ask(site, coordinator, private("local"), 2).kind == "ok"
    running = site._running
    assert ask(site, coordinator, private("local"), 3).kind == "ok"
    assert site._running is running
    assert isinstance(running, RunningJob)
    assert running.data is not None
    assert DataKind.TRAINING not in running.data.used().values()


def test_a_site_that_has_withdrawn_refuses_aloud_and_ends_the_open_session(
    site: Site, coordinator: Identity, tmp_path: Path
) -> None:
    assert ask(site, coordinator, private("distributed"), 1).kind == "ok"
    assert site._open is not None, "a vector was sent; the others may end the round"
    elsewhere(tmp_path).withdrawals.withdraw((), HEAD, who="site")
    ended = site._open
    assert ended is not None
    reply = ask(site, coordinator, private("distributed"), 2)
    assert (reply.kind, reply.error) == ("refused", "Refused")
    assert "This site has withdrawn" in reply.text
    assert site._catalogue.patients("toy") == frozenset()


def test_the_record_is_written_before_anything_is_read(
    site: Site, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    right = RunningJob.contribution

    def contribution(running: RunningJob, *given: object) -> Contribution:
        known.append(len(site._catalogue.uses.every()))
        return right(running, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(RunningJob, "contribution", contribution)
    assert ask(site, coordinator, tiny_job(rounds=3), 2).kind == "ok"
    assert known == [1]
    (use,) = site._catalogue.uses.of([of_split(site._catalogue, "train")[0]])
    assert (use.round, use.kind, use.job.noised) == (2, DataKind.TRAINING, False)
    assert use.job.job.startswith("tiny-0001/")
    assert use.job.scope == "toy/0"
