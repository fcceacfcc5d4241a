"""Statistics over sites in this process: real site code, real protection, against all images in one place."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.builders import toy_catalogue, write_npz
from tests.server.test_rounds import World

from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.client.measuring import Measurer
from salus.client.policy import Policy
from salus.common.errors import ConfigError, IdentityError, JobError, ProtectionError, RoundError, WireError
from salus.common.events import EventLog, read_events
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.packets import Request
from salus.common.sums import SUMS, sums_of
from salus.common.sums.base import Measured, Totals
from salus.common.sums.nyul import Nyul
from salus.common.sums.signed_model import open_model
from salus.common.sums.state import state_from_bytes
from salus.privacy.dp.plan import plan_of
from salus.privacy.shapes import measured_shape
from salus.server.attempts import Attempts
from salus.server.checks import check_job
from salus.server.measuring import StatisticsRun, keep_model
from salus.server.transcripts import Transcript

COORDINATOR = Identity.generate()
STEPS = {"summary": 1, "nyul": 1, "combat": 1, "quantiles": 1}
JOB = """
[job]
name = "measure"
rounds = {rounds}
join_timeout_s = 3600.0
[task]
dataset = "toy"
classes = ["no", "yes"]
[aggregation]
protection = "{protection}"
max_patients = 100
{holder}
[privacy]
{privacy}
[statistics]
kind = "{kind}"
intensity_high = 1.0
bins = 16
min_patients = {least}
"""


def job_of(kind: str, protection: str = "masking", privacy: str = 'noise = "none"', least: int = 5) -> Job:
    holder = "key_holder = 2" if protection == "encryption" else ""
    return parse_job(
        JOB.format(rounds=STEPS[kind], kind=kind, protection=protection, privacy=privacy, least=least, holder=holder)
    )


def attempts_of(world: World) -> Attempts:
    return Attempts(
        world.job,
        world.job_id,
        world.signed,
        world.sites,
        world.store,
        EventLog(listeners=(world.events.append,)),
        world.keys,
        world.transcript,
    )


def run(world: World) -> dict[str, object]:
    return StatisticsRun(attempts_of(world)).run()


def again(world: World, folder: Path) -> World:
    """Return the same world with the same job submitted once more."""
    copied = World.__new__(World)
    copied.__dict__ |= world.__dict__ | {"job_id": world.store.submit(world.signed, "again")}
    copied.transcript = Transcript(folder / f"{copied.job_id}.jsonl")
    return copied


def pooled_labels(folder: Path, sites: int) -> dict[str, int]:
    labels = [
        image.label for n in range(1, sites + 1) for image in toy_catalogue(folder / f"p{n}", seed=n).images("toy")
    ]
    return {"no": labels.count("0"), "yes": labels.count("1"), "other label": 0}


@pytest.mark.parametrize("protection", ["none", "masking", "encryption"])
def test_counts_over_five_sites_are_exact_under_every_protection(tmp_path: Path, protection: str) -> None:
    world = World(tmp_path, job_of("summary", protection), sites=5)
    for site in world.sites.sites.values():
        rules = Policy(allow_unprotected=True, allow_without_noise=True, key_holders=(2,))
        site._policy = lambda rules=rules: rules  # type: ignore[misc]
    found = run(world)
    assert found["patients"] == found["images"] == 5 * 80
    assert found["blocks"]["labels"] == pooled_labels(tmp_path, 5)  # type: ignore[index]
    assert world.store.records(world.job_id)[0]["result"] == found


@pytest.mark.parametrize("kind", ["quantiles", "nyul", "combat"])
def test_masked_steps_end_where_one_place_would(tmp_path: Path, kind: str) -> None:
    masked = run(World(tmp_path / "masked", job_of(kind), sites=5))
    plain = run(World(tmp_path / "plain", job_of(kind, "none"), sites=5))
    assert masked == plain
    if kind == "nyul":
        landmarks = masked["landmarks"]
        assert isinstance(landmarks, list)
        images = []
        for n in range(1, 6):
            catalogue = toy_catalogue(tmp_path / f"p{n}", seed=n)
            source = catalogue.source("toy")
            images += [source.load(image.key).values for image in catalogue.images("toy")]
        own = np.stack([np.percentile(i, (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)) for i in images])
        pooled = ((own - own[:, :1]) / (own[:, -1:] - own[:, :1])).mean(axis=0)
        assert np.abs(np.array(landmarks) - pooled).max() < 1e-4


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_noise_is_what_the_result_says_and_costs_what_the_plan_says(tmp_path: Path, mode: str) -> None:
    text = JOB.replace("bins = 16", "bins = 4000").replace("max_patients = 100", "max_patients = 500")
    job = parse_job(
        text.format(
            rounds=1,
            kind="quantiles",
            protection="masking",
            privacy=f'noise = "{mode}"\nepsilon = 8.0',
            least=5,
            holder="",
        )
    )
    world = World(tmp_path, job, sites=5)
    for site in world.sites.sites.values():
        rules = Policy(allow_distributed_noise=True)
        site._policy = lambda rules=rules: rules  # type: ignore[misc]
    totals: list[Totals] = []
    attempts = attempts_of(world)
    run_ = StatisticsRun(attempts)
    fold = run_.sums.fold
    run_.sums.fold = lambda step, state, t: (totals.append(t), fold(step, state, t))[1]  # type: ignore[method-assign, func-returns-value]
    found = run_.run()
    # 256 grey values fill at most 256 of 4000 bins, so most cells hold noise alone.
    whole = totals[0].cells
    inside = np.abs(whole - np.median(whole)) < 4 * totals[0].noise_sd
    measured = float(np.median(np.abs(whole[inside] - np.median(whole[inside]))) / 0.6745)
    assert measured == pytest.approx(totals[0].noise_sd, rel=0.1)
    assert abs(found["patients"] - 400) < 5 * totals[0].noise_sd  # type: ignore[operator]
    plan = plan_of(job)
    assert plan is not None
    for site in world.sites.sites.values():
        entries = [entry for entry, _ in site._ledger.entries()]
        assert [entry.kind for entry in entries] == ["reserve", "commit"]
        assert entries[1].release == plan.charge("measure")  # type: ignore[union-attr]
        assert entries[1].release.sampling_rate == 1.0  # type: ignore[union-attr]
        site._ledger.close_finished(but="another job")
        assert [entry.kind for entry, _ in site._ledger.entries()] == ["reserve", "commit", "close"]


def test_local_noise_is_not_cut_together_with_what_it_covers() -> None:
    job = job_of("summary", privacy='noise = "local"\nepsilon = 0.5')
    cells, plan = 400, plan_of(job)
    assert plan is not None
    noise = plan.noise_multiplier * np.sqrt(cells)
    assert measured_shape(job, cells).clip_norm_l2 > 100 + noise  # all patients of the job's bound, and the noise


def test_one_patient_moves_a_noised_sum_by_one_at_most_whatever_it_does(tmp_path: Path) -> None:
    """A failure of one patient once switched the whole site off."""
    columns = 'columns = [{{name = "age", scale = 1e12}}]'
    text = JOB.replace('classes = ["no", "yes"]', f'classes = ["no", "yes"]\n{columns}')
    job = parse_job(
        text.format(
            rounds=1,
            kind="summary",
            protection="masking",
            privacy='noise = "distributed"\nepsilon = 8.0',
            least=5,
            holder="",
        )
    )
    plan = plan_of(job)
    assert plan is not None
    nothing = np.zeros(0, np.float32)
    others = [[Measured(0, nothing, columns={"age": 40.0})] for _ in range(20)]

    def breaks() -> Iterator[Measured]:
        yield Measured(0, nothing)
        raise MemoryError

    catalogue = toy_catalogue(tmp_path)

    def measured(patients: Sequence[Iterable[Measured]]) -> np.ndarray:
        measurer = Measurer(catalogue, job, sums_of(job), None, lambda: 5, os.urandom)
        measurer._by_patient = lambda: iter(patients)  # type: ignore[method-assign, assignment, return-value]
        return measurer.noised(1, [], plan)

    before = measured(others)
    assert np.linalg.norm(before) > 5
    strange = [Measured(1, nothing, columns={"age": age}) for age in (np.nan, np.inf, 1e308, -1e308)]
    for patient in (*([image] for image in strange), strange * 50, breaks()):
        assert np.linalg.norm(measured([*others, patient]) - before) <= 1 + 1e-12


def test_no_more_images_of_a_patient_are_read_than_the_job_allows(tmp_path: Path) -> None:
    job = job_of("nyul", privacy='noise = "local"\nimages_per_patient = 2')
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    npz = write_npz(tmp_path / "toy.npz")
    source = open_source("medmnist", npz, SourceOptions())
    found = [replace(r, patient=f"p{n // 10}") for n, r in enumerate(source.scan()) if isinstance(r, ImageRecord)]
    catalogue.add_records("toy", "medmnist", npz, SourceOptions(), found)
    everybody = frozenset(image.patient for image in catalogue.images("toy"))
    measurer = Measurer(catalogue, job, sums_of(job), everybody, lambda: 1, os.urandom)
    assert [len(list(mine)) for mine in measurer._by_patient()] == [2] * len(everybody)


def test_a_policy_that_becomes_stricter_counts_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary"), sites=5)
    limits = dict.fromkeys(world.sites.sites, 5)
    for n, site in world.sites.sites.items():
        site._policy = lambda n=n: Policy(allow_without_noise=True, min_patients_per_cell=limits[n])  # type: ignore[misc]
    assert run(world)["images"] == 400
    limits[2] = 1000
    with pytest.raises(RoundError, match="failed in"):
        run(again(world, tmp_path))  # site 2 would hide other cells than before, so it answers nothing
    assert any("another question about the same data" in str(event.fields.get("text")) for event in world.events)


def test_a_site_below_its_operators_minimum_gives_nothing_and_nobody_learns_which(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary", least=1), sites=6)
    strict = Policy(allow_without_noise=True, min_patients_per_cell=81)
    world.sites.sites[3]._policy = lambda: strict
    found = run(world)
    assert found["images"] == 5 * 80
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 3, 4, 5, 6]
    for site in world.sites.sites.values():
        site._policy = lambda: strict
    with pytest.raises(RoundError, match="failed in"):
        run(again(world, tmp_path))


def test_a_site_whose_data_are_gone_gives_nothing_and_its_operator_sees_why(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary"), sites=6)
    (tmp_path / "s2" / "toy.npz").write_bytes(b"")
    found = run(world)
    assert found["images"] == 5 * 80
    seen = read_events(tmp_path / "s2" / "events.jsonl")
    assert [event.kind for event in seen if event.kind == "contributed-nothing"]
    assert str(tmp_path) not in (tmp_path / "s2" / "events.jsonl").read_text()


def test_requests_that_do_not_belong_to_the_job_are_refused_before_data_are_read(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("quantiles"), sites=5)
    site = world.sites.sites[1]
    site._catalogue.source = lambda name: pytest.fail("data were read")  # type: ignore[method-assign, assignment]

    def ask(kind: str, round_: int, blob: bytes) -> str:
        values = {"kind": kind, "job_id": "x", "job": world.signed, "round": round_, "attempt": 0}
        return site.handle(Request.model_validate({**values, "sites": (1, 2, 3, 4, 5)}), blob)[0].error

    for kind, round_ in (("train", 1), ("evaluate", 1), ("evaluate", 2), ("measure", 0), ("measure", 2)):
        assert ask(kind, round_, b"[]") == "Refused"
    for blob in (b"[1.0]", b"[NaN]", b"{}", b"\x80", b"[" * 100_000, b'["1"]', b"[" + b"1," * 9 + b"1e999]"):
        assert ask("measure", 1, blob) == "WireError"
    for blob in (b'["1.0"]', b"[true]", b"[NaN]", b"[1e999]", b"[null]"):
        with pytest.raises(WireError):
            state_from_bytes(blob, 1)
    assert state_from_bytes(b"[1, -2.5]", 2) == [1.0, -2.5]


def test_statistics_whose_sums_would_not_fit_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    text = JOB.replace("max_patients = 100", "max_patients = 2000000000").replace(
        "{privacy}", 'noise = "local"\nepsilon = 8.0'
    )
    job = parse_job(text.format(rounds=1, kind="summary", protection="masking", least=5, holder=""))
    with pytest.raises((JobError, ProtectionError)):
        check_job(job, 5)
    world = World(tmp_path, job, sites=5)
    site = world.sites.sites[1]
    values = {"kind": "measure", "job_id": "x", "job": world.signed, "round": 1, "attempt": 0, "sites": (1, 2, 3, 4, 5)}
    assert site.handle(Request.model_validate(values), b"[]")[0].error in (
        "ProtectionError",
        "Refused",
    )  # too large for the sum, or for memory
    assert site._ledger.entries() == []


def codebook(privacy: str) -> Job:
    text = JOB.replace('kind = "{kind}"', 'kind = "{kind}"\nclusters = 3')
    return parse_job(text.format(rounds=3, kind="kmeans", protection="masking", privacy=privacy, least=5, holder=""))


def test_a_masked_model_from_sums_is_kept_as_signed_json(tmp_path: Path) -> None:
    world = World(tmp_path, codebook('noise = "none"'), sites=5)
    attempts = attempts_of(world)
    assert keep_model(attempts, COORDINATOR) is None  # not before the last step
    found = StatisticsRun(attempts).run()
    path = keep_model(attempts, COORDINATOR)
    assert path is not None
    model = open_model(path.read_bytes(), COORDINATOR.public_key)
    assert model.model["centres"] == found["centres"]
    assert sum(found["sizes"]) == pytest.approx(5 * 80, abs=1e-3)
    assert model.job == world.job_id
    assert model.job_sha256 == hashlib.sha256(world.signed.document.encode()).hexdigest()
    with pytest.raises(IdentityError):
        open_model(path.read_bytes().replace(b"centres", b"centers"), COORDINATOR.public_key)
    with pytest.raises(IdentityError):
        open_model(path.read_bytes(), Identity.generate().public_key)
    with pytest.raises(ConfigError, match="signed JSON"):
        open_model(path.read_bytes()[:-3], COORDINATOR.public_key)


def test_a_noised_codebook_states_its_noise_and_costs_each_step(tmp_path: Path) -> None:
    world = World(tmp_path, codebook('noise = "distributed"\nepsilon = 8.0'), sites=5)
    for site in world.sites.sites.values():
        rules = Policy(allow_distributed_noise=True)
        site._policy = lambda rules=rules: rules  # type: ignore[misc]
    found = run(world)
    assert found["noise_sd"] > 0  # type: ignore[operator]
    assert np.isfinite(found["centres"]).all()  # type: ignore[call-overload]
    assert [record["round"] for record in world.store.records(world.job_id)] == [1, 2, 3]


def test_kinds_without_a_model_keep_none(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary"), sites=5)
    run(world)
    assert keep_model(attempts_of(world), COORDINATOR) is None


class TwoSteps(Nyul):
    """Means, and then squared distances from them: the second step needs the first one's public state."""

    steps = 2

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else 11

    def row(self, step: int, state: Sequence[float], image: Measured) -> np.ndarray | None:
        own = super().row(step, state, image)
        return own if step == 1 or own is None else (own - np.array(state)) ** 2

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        return [float(value) for value in totals.cells / totals.weight]


def test_several_steps_share_a_public_state_and_go_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUMS._builtin, "nyul", f"{__name__}:TwoSteps")
    monkeypatch.setitem(STEPS, "nyul", 2)
    whole = run(World(tmp_path / "whole", job_of("nyul"), sites=5))
    world = World(tmp_path / "killed", job_of("nyul"), sites=5)
    save = world.store.save_record

    def killed(job_id: str, round_: int, record: Mapping[str, object]) -> None:
        save(job_id, round_, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(world.store, "save_record", killed)
    with pytest.raises(KeyboardInterrupt):
        run(world)
    monkeypatch.setattr(world.store, "save_record", save)
    assert [record["round"] for record in world.store.records(world.job_id)] == [1]
    assert run(world) == whole
    assert run(world) == whole  # a finished one is not measured again
    assert [asked for asked in world.sites.asked if asked[0] == "measure"] == [
        *[("measure", 1, 0)] * 5,
        *[("measure", 2, 0)] * 5,
    ]
    images = []
    for n in range(1, 6):
        catalogue = toy_catalogue(tmp_path / f"p{n}", seed=n)
        source = catalogue.source("toy")
        images += [source.load(image.key).values for image in catalogue.images("toy")]
    own = np.stack([np.percentile(i, (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)) for i in images])
    mapped = (own - own[:, :1]) / (own[:, -1:] - own[:, :1])
    landmarks = whole["landmarks"]
    assert isinstance(landmarks, list)
    assert np.abs(np.array(landmarks) - mapped.var(axis=0)).max() < 1e-6


@pytest.mark.parametrize("protection", ["masking", "encryption"])
def test_statistics_to_which_one_site_alone_contributes_are_not_opened(tmp_path: Path, protection: str) -> None:
    world = World(tmp_path, job_of("summary", protection), sites=5)
    for n, site in world.sites.sites.items():
        least = 5 if n == 4 else 1000
        site._policy = lambda n=least: Policy(allow_without_noise=True, min_patients_per_cell=n, key_holders=(2,))  # type: ignore[misc]
    with pytest.raises(RoundError, match="not opened: fewer than 5 sites contributed data"):
        run(world)
    assert "sum" not in (tmp_path / "transcript.jsonl").read_text().replace("summary", "")


def test_a_second_histogram_with_other_bins_is_refused_by_every_site(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary"), sites=5)
    run(world)
    run(again(world, tmp_path))  # the same question once more
    shifted = world.job.model_copy(update={"statistics": world.job.statistics.model_copy(update={"bins": 17})})  # type: ignore[union-attr]
    other = again(world, tmp_path)
    other.job, other.signed = shifted, seal_job(shifted, world.coordinator)
    with pytest.raises(RoundError, match="failed in"):
        run(other)
    left_out = [event.fields for event in world.events if event.kind == "left-out"]
    refused = {fields["site"] for fields in left_out if "another question" in str(fields["text"])}
    assert refused == {1, 2, 3, 4, 5}
