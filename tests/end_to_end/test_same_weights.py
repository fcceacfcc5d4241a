"""The final weights of small jobs, bit for bit: what a job trains to must not change with the code that trains it.

The weights depend on the build of torch and on the processor, so the recorded hashes are kept by both; elsewhere these tests
are skipped by name. A change that is meant to alter training records them again: ``SALUS_RECORD_WEIGHTS=1 pytest PATH``.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.builders import job_text, toy_catalogue, write_npz
from tests.tiny import InOneProcess

from salus.client.data.loading import Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.site import Site
from salus.client.training import Trainer
from salus.common.clock import SystemClock
from salus.common.events import EventLog
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp.plan import plan_of
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.rounds import JobRun
from salus.simulations.virtual import OPEN_POLICY, make_hospitals, open_catalogue, virtual_identity, virtual_keys

SITES, IMAGES = 5, 240
RECORDED = Path(__file__).parent / "same_weights.json"
JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"
HEART = SourceOptions(
    label_column="num",
    positive_above=0,
    missing=("", "?", "-9", "-9.0"),
    columns=(
        "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num",
    ),
)  # fmt: skip
MODES = {
    "masked": 'noise = "none"',
    "local": 'noise = "local"\nepsilon = 8.0\nsampling_rate = 0.3\npatients_per_site = 40\nsteps_per_round = 2',
    "distributed": 'noise = "distributed"\nepsilon = 8.0\nsampling_rate = 0.3\npatients_per_site = 40',
}


class Seeded:
    """Randomness that is the same in every run, in place of the operating system's."""

    def __init__(self, site: int) -> None:
        self._site, self._calls = site, 0

    def __call__(self, count: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(f"{self._site}/{self._calls}".encode()).digest(count)


def final_weights(job: Job, data: Path, folder: Path, options: SourceOptions, partition: str = "iid") -> bytes:
    """Run a job over sites in this process, with seeded randomness, and return the final model as float32 bytes."""
    make_hospitals(job, data, options, sites=SITES, partition=partition, seed=0, folder=folder)
    coordinator, secret = Identity.from_seed(bytes(32)), bytes(32)
    keys = virtual_keys(secret, SITES)
    sites: dict[int, Site] = {}
    for number in keys:
        place = folder / f"site-{number}"
        sites[number] = Site(
            site_id=number, identity=virtual_identity(secret, number), keys=keys, store=MemoryStore(),
            coordinator_key=coordinator.public_key, catalogue=open_catalogue(folder, number), policy=lambda: OPEN_POLICY,
            performance=Performance(device="cpu", threads=1), events=EventLog(place / "events.jsonl"),
            ledger=Ledger(place / "ledger.sqlite", SystemClock()),
        )  # fmt: skip
        sites[number]._random = Seeded(number)
    signed = seal_job(job, coordinator)
    checkpoints = Checkpoints(folder / "coordinator")
    job_id = checkpoints.submit(signed, job.job.name)
    events = EventLog(folder / "events.jsonl")
    run = JobRun(Attempts(job, job_id, signed, InOneProcess(sites), checkpoints, events, keys))
    return run.run().astype(np.float32).tobytes()


def builds() -> str:
    """Return what the last bits of a weight depend on, but for the kind of processor."""
    return f"torch {torch.__version__} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def processor() -> str:
    """Return the kind of processor, by which torch's libraries choose their code; empty where it is unknown."""
    about = Path("/proc/cpuinfo")
    found = re.findall(r"(?m)^(cpu family|model)\s*: (\d+)$", about.read_text()) if about.exists() else []
    return " ".join(f"{name} {number}" for name, number in found[:2])


def require_same(name: str, weights: bytes) -> None:
    """Compare with the recorded hash; skip where this torch and processor have none.

    Hashes without a processor are of one whose kind was not recorded: others may differ from them in the last bits.
    """
    exact = f"{builds()} {processor()}"
    found = hashlib.sha256(weights).hexdigest()
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if os.environ.get("SALUS_RECORD_WEIGHTS"):
        recorded.setdefault(exact, {})[name] = found
        RECORDED.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    if exact not in recorded and recorded.get(builds(), {}).get(name) == found:
        return
    if name not in recorded.get(exact, {}):
        pytest.skip(
            f"no weights are recorded for {exact}; record them with SALUS_RECORD_WEIGHTS=1 at a commit known to be right"
        )
    assert recorded[exact][name] == found


def images_job(mode: str, side: int, classes: str = '"no", "yes"') -> Job:
    text = job_text(model="cnn", protection="masking", privacy=MODES[mode], min_sites=SITES)
    return parse_job(text.replace("[8, 8]", f"[{side}, {side}]").replace('"no", "yes"', classes))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of additions depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("mode", MODES)
def test_toy_images(tmp_path: Path, mode: str) -> None:
    data = write_npz(tmp_path / "toy.npz", images=IMAGES)
    require_same(f"toy/{mode}", final_weights(images_job(mode, 8), data, tmp_path / "s", SourceOptions()))


@pytest.mark.shared_data
@pytest.mark.parametrize("mode", MODES)
def test_pneumonia(tmp_path: Path, shared_data: Path, mode: str) -> None:
    with np.load(shared_data / "pneumoniamnist" / "pneumoniamnist.npz") as arrays:
        np.savez(tmp_path / "some.npz", **{name: arrays[name][:IMAGES] for name in arrays})
    job = images_job(mode, 28, '"normal", "pneumonia"')
    require_same(f"pneumonia/{mode}", final_weights(job, tmp_path / "some.npz", tmp_path / "s", SourceOptions()))


@pytest.mark.shared_data
@pytest.mark.parametrize("mode", MODES)
def test_heart_disease(tmp_path: Path, shared_data: Path, mode: str) -> None:
    head, rest = (JOBS / "heart-disease.toml").read_text().split("[training]")
    training = rest.split("[aggregation]")[0]
    if mode != "masked":
        training = training.replace("local_epochs = 2\n", "")
    if mode == "distributed":  # the sites' optimizer has no effect there, and a job that sets it is refused
        training = "\nbatch_size = 32\nvalidation_fraction = 0.1\n"
    job = parse_job(
        head.replace("rounds = 30", "rounds = 2")
        + f'[training]{training}[aggregation]\nprotection = "masking"\n[privacy]\n{MODES[mode]}\n'
    )
    require_same(f"heart/{mode}", final_weights(job, shared_data / "heart_disease", tmp_path / "s", HEART))


def site_of_patients(tmp_path: Path, mode: str) -> tuple[Trainer, TensorSet]:
    """Return a trainer and the training data of one site."""
    job = images_job(mode, 8)
    task = make_task(job.task)
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu", threads=1))
    return trainer, local_data(toy_catalogue(tmp_path), job, task, Memory(2**24)).train


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_patients_with_several_images(tmp_path: Path, mode: str) -> None:
    """Of each patient 1, 2, 3, 4 or 5 images: the mean over a patient's images keeps its bits, too."""
    trainer, data = site_of_patients(tmp_path, mode)
    groups = [list(range(first, first + count)) for first, count in ((0, 1), (1, 2), (3, 3), (6, 4), (10, 5), (15, 5))]
    data.by_patient = lambda: groups  # type: ignore[method-assign]
    plan = plan_of(trainer.job)
    assert plan is not None
    private = PrivateTrainer(trainer, plan, Seeded(1))
    start = read_parameters(trainer.model, trainer.layout)
    update = private.train(start, data) if mode == "local" else private.direction(start, data)
    counted = private.statistics(start, data)
    require_same(f"several images/{mode}", update.tobytes() + np.asarray(counted, np.float64).tobytes())


def test_plain_training_equals_a_plain_loop(tmp_path: Path) -> None:
    """Anywhere, without a recorded hash: the same as ten lines of torch with the mean cross-entropy of a batch."""
    trainer, data = site_of_patients(tmp_path, "masked")
    start = read_parameters(trainer.model, trainer.layout)
    update = trainer.train(start, data, 5)
    model = build_model(trainer.job.task, 0)
    settings = trainer.job.training
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    shuffle = torch.Generator().manual_seed(5)
    for _ in range(settings.epochs):
        for rows in torch.split(torch.randperm(len(data), generator=shuffle), settings.batch_size):
            images, labels = read(data, rows)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert np.array_equal(update, read_parameters(model, trainer.layout) - start)


def read(data: TensorSet, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels."""
    batch = data.batch(rows)
    return batch["image"], batch["label"]
