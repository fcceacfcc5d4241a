"""What a job takes is known before anything is built; jobs of a few hundred bytes that fill a machine are refused."""

import resource
from pathlib import Path

import pytest
from tests.builders import job_text, tiny_job, toy_site

from salus.client.performance import Performance
from salus.common.cost import cost_of
from salus.common.errors import JobError
from salus.common.identity import Identity
from salus.common.job import Job, load_job, parse_job, seal_job
from salus.common.machine import MEBIBYTE
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.vectors import layout_of
from salus.server.checks import check_job

ROOT = Path(__file__).resolve().parents[2]
STATISTICS = """
[job]
name = "measure"
rounds = 1
[task]
dataset = "toy"
classes = ["no", "yes"]
shape = [64, 64, 64]
[statistics]
kind = "summary"
bins = 4096
[aggregation]
max_patients = 100000000
[privacy]
noise = "none"
"""
SGD = 'optimizer = "sgd"\nmomentum = 0.5'


def shaped(shape: str, model: str, **changes: object) -> Job:
    return parse_job(job_text(model=model, **changes).replace("[8, 8]", shape))  # type: ignore[arg-type]


def test_a_loss_that_is_larger_than_its_network_counts() -> None:
    """512 objects of 1000 classes at 4096 places took 8 GB for one image, and the cost was said to be 155 MB."""
    names = ", ".join(f'"c{number}"' for number in range(1000))
    text = '[job]\nname = "j"\nrounds = 1\n[task]\nkind = "detection"\nmodel = "centernet"\ndataset = "d"\nshape = [256, 256]\n'
    job = parse_job(text + f"most_objects = 512\nclasses = [{names}]\n[training]\nbatch_size = 1\n")
    assert cost_of(job).memory_bytes > 8 * 2**30


@pytest.mark.parametrize(
    ("model", "shape"), [("logistic", "[9, 7]"), ("cnn", "[16, 16]"), ("cnn", "[8, 8, 8]"), ("resnet18", "[32, 32]")]
)
def test_parameters_are_those_of_the_network(model: str, shape: str) -> None:
    job = shaped(shape, model)
    assert cost_of(job).parameters == layout_of(build_model(job.task, 0)).size


def test_activations_are_counted_layer_by_layer() -> None:
    # Input with its label, flattened, two classes.
    assert cost_of(shaped("[10, 10]", "logistic")).activations == 101 + 100 + 2
    side = 16 * 16
    layers = (
        3 * 16 * side + 16 * side // 4 + 3 * 32 * side // 4 + 32 * side // 16 + 3 * 32 * side // 16 + 32 * side // 64
    )
    assert cost_of(shaped("[16, 16]", "cnn")).activations == side + 1 + layers + 32 + 2


def test_the_images_that_score_a_generating_model_count() -> None:
    text = (ROOT / "simulations" / "jobs" / "pneumonia-vae.toml").read_text()
    large = text.replace("[28, 28]", "[64, 64]\nwidths = [4, 8]\nscore_images = {count}").replace("= 32", "= 1")
    few, many = (cost_of(parse_job(large.format(count=count))).memory_bytes for count in (16, 4096))
    image = 2 * 4 * 64 * 64  # twice while they are put together, in single precision
    assert many - few > 4000 * image
    assert many < 50 * 4096 * image


BOMBS = {
    "a network of 67 million inputs": shaped("[4096, 4096]\nchannels = 4", "cnn", training=SGD).model_copy(
        update={"training": tiny_job().training.model_copy(update={"batch_size": 4096})}
    ),
    "a linear layer of 67 thousand million weights": parse_job(
        job_text()
        .replace("[8, 8]", "[4096, 4096]\nchannels = 4")
        .replace('["no", "yes"]', str([f"c{n}" for n in range(1000)]))
    ),
    "statistics over more patients than there are": parse_job(STATISTICS),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_job_that_fills_a_machine_is_refused_without_building_it(bomb: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JobError, match="MB of memory"):
        check_job(BOMBS[bomb], 5)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300


def test_the_jobs_that_we_ship_are_small() -> None:
    for path in (ROOT / "simulations" / "jobs").glob("*.toml"):
        assert cost_of(load_job(path)).memory_bytes < 1024 * MEBIBYTE, path.name


def test_a_site_refuses_before_it_reserves_anything(tmp_path: Path) -> None:
    coordinator = Identity.generate()
    site = toy_site(tmp_path, 1, coordinator.public_key)
    site._performance = Performance(device="cpu", threads=1, max_job_memory_mb=1)
    job = tiny_job(model="cnn", protection="masking", privacy="epsilon = 8.0")
    request = Request.model_validate(
        {
            "kind": "train",
            "job_id": "tiny-0001",
            "job": seal_job(job, coordinator),
            "round": 1,
            "attempt": 0,
            "sites": (1, 2, 3),
        }
    )
    before = site._ledger.head()
    reply, _ = site.handle(request, b"")
    assert reply.error == "Refused", reply.text
    assert "max_job_memory_mb" in reply.text
    assert site._ledger.head() == before


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(JobError, match="1000"):
        parse_job(job_text().replace('["no", "yes"]', str([f"c{n}" for n in range(1001)])))
