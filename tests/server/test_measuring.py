"""Statistics over sites in this process: real site code, real protection, against all images in one place."""

from pathlib import Path

import numpy as np
import pytest
from tests.builders import toy_catalogue
from tests.server.test_rounds import World

from salus.client.policy import Policy
from salus.common.errors import RoundError
from salus.common.events import EventLog, read_events
from salus.common.job import Job, parse_job
from salus.common.packets import Request
from salus.server.attempts import Attempts
from salus.server.measuring import StatisticsRun

STEPS = {"summary": 1, "nyul": 1, "combat": 1, "quantiles": 3}
JOB = """
[job]
name = "measure"
rounds = {rounds}
join_timeout_s = 60.0
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


def run(world: World) -> dict[str, object]:
    attempts = Attempts(
        world.job,
        world.job_id,
        world.signed,
        world.sites,
        world.store,
        EventLog(listeners=(world.events.append,)),
        world.keys,
        world.transcript,
    )
    return StatisticsRun(attempts).run()


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
def test_noised_counts_cost_what_the_job_says_and_stay_near(tmp_path: Path, mode: str) -> None:
    job = job_of("summary", privacy=f'noise = "{mode}"\nepsilon = 8.0')
    world = World(tmp_path, job, sites=5)
    for site in world.sites.sites.values():
        rules = Policy(allow_distributed_noise=True)
        site._policy = lambda rules=rules: rules  # type: ignore[misc]
    found = run(world)
    noise = found["noise_sd"]
    assert isinstance(noise, float)
    assert 0.5 < noise < 60
    truth = pooled_labels(tmp_path, 5)
    labels = found["blocks"]["labels"]  # type: ignore[index]
    assert all(abs(labels[name] - truth[name]) < 5 * noise for name in truth)
    assert any(labels[name] != truth[name] for name in truth)
    for site in world.sites.sites.values():
        spent = [entry for _, (entry, _) in enumerate(site._ledger.entries())]
        assert [entry.kind for entry in spent][:2] == ["reserve", "commit"]


def test_a_site_below_its_operators_minimum_gives_nothing_and_nobody_learns_which(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary", least=1), sites=5)
    strict = Policy(allow_without_noise=True, min_patients_per_cell=81)
    world.sites.sites[3]._policy = lambda: strict
    found = run(world)
    assert found["images"] == 4 * 80
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 3, 4, 5]
    for site in world.sites.sites.values():
        site._policy = lambda: strict
    again = World.__new__(World)
    again.__dict__ |= world.__dict__ | {"job_id": world.store.submit(world.signed, "again")}
    again.transcript = type(world.transcript)(tmp_path / "again.jsonl")
    with pytest.raises(RoundError, match="enough patients"):
        run(again)


def test_a_site_whose_data_are_gone_gives_nothing_and_its_operator_sees_why(tmp_path: Path) -> None:
    world = World(tmp_path, job_of("summary"), sites=5)
    (tmp_path / "s2" / "toy.npz").write_bytes(b"")
    found = run(world)
    assert found["images"] == 4 * 80
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

    for kind, round_ in (("train", 1), ("evaluate", 1), ("evaluate", 4), ("measure", 0), ("measure", 4)):
        assert ask(kind, round_, b"[]") == "Refused"
    for blob in (b"[1.0]", b"[NaN]", b"{}", b"\x80", b"[" * 100_000, b'["1"]', b"[" + b"1," * 9 + b"1e999]"):
        assert ask("measure", 2, blob) == "WireError"
