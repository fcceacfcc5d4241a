"""Crafted models against a masked sum: images recovered where the checks are off, and refused where they are on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import job_text, toy_catalogue
from tests.server.test_rounds import World
from tests.tiny import JOBS

from salus.client.model_checks import check_imprint
from salus.client.policy import Policy
from salus.common.errors import Refused, RoundError
from salus.common.events import EventLog
from salus.common.job import Job, load_job, parse_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.server.attempts import Attempts
from salus.server.rounds import JobRun

CLASSES, PIXELS, SHARPNESS, MIDDLE = 600, 64, 2.6e7, -0.53


def job_with(classes: int, **changes: object) -> Job:
    names = ["no", "yes", *(f"dummy-{n}" for n in range(classes - 2))]
    text = job_text(protection="masking", training='optimizer = "sgd"\nmomentum = 0.0', **changes)  # type: ignore[arg-type]
    text = text.replace('["no", "yes"]', str(names).replace("'", '"')).replace("batch_size = 8", "batch_size = 512")
    text = text.replace("max_patients = 50", "max_patients = 50\nupdate_clip_norm_l2 = 80000.0")
    return parse_job(text.replace("learning_rate = 0.02", "learning_rate = 40000.0"))


def crafted(classes: int) -> np.ndarray:
    """Return parameters with which a sample activates the one output whose level of brightness is nearest to its own."""
    # Brightness of the toy images lies in two ranges; about the middle between them the arithmetic is most exact.
    levels = np.concatenate([np.linspace(-0.73, -0.57, classes // 2), np.linspace(-0.5, -0.33, classes // 2)]) - MIDDLE
    weight = SHARPNESS * levels[:, None] * np.full((1, PIXELS), 1 / PIXELS)
    return np.concatenate([weight.reshape(-1), -SHARPNESS * (levels * MIDDLE + levels**2 / 2)]).astype(np.float32)


def images_of(folder: Path, sites: int) -> np.ndarray:
    found = []
    for number in range(1, sites + 1):
        catalogue = toy_catalogue(folder / f"p{number}", seed=number)
        source = catalogue.source("toy")
        found += [
            source.load(image.key).values.reshape(-1) for image in catalogue.images("toy") if image.split == "train"
        ]
    return np.stack(found) * 2 - 1


def stolen(world: World, classes: int) -> np.ndarray:
    """Return what a coordinator reads from the masked sum of one crafted round: one candidate image per output."""
    attempts = Attempts(
        world.job, world.job_id, world.signed, world.sites, world.store,
        EventLog(listeners=(world.events.append,)), world.keys, world.transcript, patience_s=0.0,
    )  # fmt: skip
    run = JobRun(attempts)
    shape = run._shape("train")
    total = attempts.sum(2, "train", run.layout.encode(crafted(classes)), shape)
    mean = total.mean_update(shape)
    rows, counts = mean[: classes * PIXELS].reshape(classes, PIXELS), mean[classes * PIXELS :]
    used = counts < -10.0  # an activated output loses weight in proportion to its images
    return rows[used] / counts[used, None]


def recovered(candidates: np.ndarray, images: np.ndarray) -> float:
    """Return the share of images that a candidate shows within one grey value of 256."""
    if not len(candidates):
        return 0.0
    return float(np.mean([np.abs(candidates - image).max(axis=1).min() < 2 / 256 for image in images]))


@pytest.fixture(autouse=True)
def _many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sites' declarations have as many classes as the job invents: other data may, and this is about the layer."""
    monkeypatch.setattr("salus.client.site.require_fit", lambda *_: None)


def allow(world: World, *names: str) -> None:
    for site in world.sites.sites.values():
        site._policy = lambda: Policy(allow_without_noise=True, allow_imprint_models=names)


def test_crafted_parameters_recover_images_from_a_masked_sum_where_an_operator_allows_it(tmp_path: Path) -> None:
    world = World(tmp_path, job_with(CLASSES), sites=5)
    allow(world, "logistic")
    assert recovered(stolen(world, CLASSES), images_of(tmp_path, 5)) > 0.3


def test_the_same_attack_is_refused_by_default_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, job_with(CLASSES), sites=5)
    allow(world)
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    with pytest.raises(RoundError):
        stolen(world, CLASSES)
    texts = [str(event.fields["text"]) for event in world.events if event.kind == "left-out"]
    assert len({event.fields["site"] for event in world.events if event.kind == "left-out"}) == 5
    assert all("wide layer directly on the input: 1 (600 outputs)" in text for text in texts)
    assert all('allow_imprint_models = ["logistic"]' in text for text in texts)


def test_with_few_outputs_few_images_come_out(tmp_path: Path) -> None:
    """What is allowed reveals something, too: as many weighted sums as there are outputs. The documents say so."""
    world = World(tmp_path, job_with(8), sites=5)
    allow(world)
    assert recovered(stolen(world, 8), images_of(tmp_path, 5)) <= 8 / 200


def test_sites_take_every_sample_job_with_the_policy_that_they_start_with() -> None:
    """A layer on noise, a first state or a table of places is no reason to refuse a job."""
    names = sorted(path.name for path in JOBS.glob("*.toml"))
    training = [job for name in names if (job := load_job(JOBS / name)).statistics is None]
    assert len(training) > 30
    for job in training:
        check_imprint(job, ())
    wide = load_job(JOBS / "heart-disease.toml")
    wide = wide.model_copy(update={"task": wide.task.changed(model="mlp")})
    with pytest.raises(Refused, match="wide layer"):
        check_imprint(wide, ())


@pytest.mark.parametrize("protection", ["masking", "none"])
def test_a_first_model_that_the_seed_does_not_give_is_refused_by_every_site(tmp_path: Path, protection: str) -> None:
    job = parse_job(job_text(protection=protection, rounds=1, model="cnn"))
    world = World(tmp_path, job, sites=5)
    attempts = Attempts(
        job, world.job_id, world.signed, world.sites, world.store,
        EventLog(listeners=(world.events.append,)), world.keys, world.transcript,
    )  # fmt: skip
    run = JobRun(attempts)
    run.model = read_parameters(build_model(job.task, job.job.seed + 1), run.layout)
    with pytest.raises(RoundError):
        run.run()
    texts = [str(event.fields["text"]) for event in world.events if event.kind == "left-out"]
    assert texts
    assert all("not the one that the job's seed 0 gives" in text and torch.__version__ in text for text in texts)


def test_rounding_of_another_processor_is_no_other_model() -> None:
    from salus.client.model_checks import check_first_model

    job = parse_job(job_text(model="cnn"))
    layout = layout_of(build_model(job.task, 0))
    start = read_parameters(build_model(job.task, 0), layout)
    check_first_model(job, layout, np.nextafter(start, np.float32(1)))
    for wrong in (start * np.float32(1.001), start + np.float32(1e-5), start[::-1].copy()):
        with pytest.raises(Refused, match="parameters differ"):
            check_first_model(job, layout, wrong)
